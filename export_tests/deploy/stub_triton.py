"""A server that speaks the protocol of tritonclient (KServe v2, HTTP with binary tensors and gRPC) over ONNX Runtime."""

from __future__ import annotations

import contextlib
import json
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import onnxruntime

TYPES = {"FP32": np.float32, "UINT8": np.uint8, "INT64": np.int64}
WORDS = {np.dtype(v): k for k, v in TYPES.items()}


class Model:
    def __init__(self, path, name):
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        self.name = name

    def run(self, inputs):
        names = [o.name for o in self.session.get_outputs()]
        return dict(zip(names, self.session.run(None, inputs), strict=True))


@contextlib.contextmanager
def http_server(path, name):
    model = Model(path, name)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def answer(self, code, head, binary=b""):
            text = json.dumps(head).encode() if head is not None else b""
            self.send_response(code)
            if binary:
                self.send_header("Inference-Header-Content-Length", str(len(text)))
            self.send_header("Content-Length", str(len(text) + len(binary)))
            self.end_headers()
            self.wfile.write(text + binary)

        def do_GET(self):
            self.answer(200 if self.path == f"/v2/models/{name}/ready" else 404, None)

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            length = int(self.headers.get("Inference-Header-Content-Length", len(body)))
            request, rest, inputs = json.loads(body[:length]), body[length:], {}
            for tensor in request["inputs"]:
                size = tensor["parameters"]["binary_data_size"]
                inputs[tensor["name"]] = np.frombuffer(rest[:size], TYPES[tensor["datatype"]]).reshape(tensor["shape"])
                rest = rest[size:]
            results = model.run(inputs)
            outputs, binary = [], b""
            for wanted in request["outputs"]:
                array = np.ascontiguousarray(results[wanted["name"]])
                facts = {"name": wanted["name"], "datatype": WORDS[array.dtype], "shape": list(array.shape)}
                outputs.append({**facts, "parameters": {"binary_data_size": array.nbytes}})
                binary += array.tobytes()
            self.answer(200, {"model_name": name, "model_version": "1", "outputs": outputs}, binary)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def grpc_server(path, name):
    import grpc
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    model = Model(path, name)

    class Service(service_pb2_grpc.GRPCInferenceServiceServicer):
        def ModelReady(self, request, context):
            return service_pb2.ModelReadyResponse(ready=request.name == name)

        def ModelInfer(self, request, context):
            inputs = {
                t.name: np.frombuffer(raw, TYPES[t.datatype]).reshape(list(t.shape))
                for t, raw in zip(request.inputs, request.raw_input_contents, strict=True)
            }
            response = service_pb2.ModelInferResponse(model_name=name, model_version="1")
            for key, array in model.run(inputs).items():
                response.outputs.add(name=key, datatype=WORDS[array.dtype], shape=array.shape)
                response.raw_output_contents.append(np.ascontiguousarray(array).tobytes())
            return response

    server = grpc.server(futures.ThreadPoolExecutor(1))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
