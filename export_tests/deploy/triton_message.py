"""Triton's own message for a model's configuration, or one restated field by field."""

from __future__ import annotations


def parsed(text):
    """The text as Triton's own message, or, where tritonclient is not installed, as one of the fields that are written."""
    from google.protobuf import text_format

    try:
        from tritonclient.grpc.model_config_pb2 import ModelConfig as Config
    except ModuleNotFoundError:
        Config = restated_message()
    return text_format.Parse(text, Config())


def restated_message():
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="restated.proto", package="restated", syntax="proto3")
    types = {"string": 9, "int32": 5, "int64": 3, "uint64": 4, "bool": 8}
    for name, values in {
        "DataType": "INVALID BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 FP32 FP64 STRING BF16",
        "Kind": "AUTO GPU CPU MODEL",
    }.items():
        prefix = "TYPE_" if name == "DataType" else "KIND_"
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values.split()):
            enum.value.add(name=prefix + value, number=number)
    fields = {
        "Reshape": "shape:int64*",
        "Tensor": "name:string data_type:DataType dims:int64* reshape:Reshape label_filename:string",
        "Batching": "preferred_batch_size:int32* max_queue_delay_microseconds:uint64",
        "Group": "count:int32 kind:Kind",
        "WarmupInput": "data_type:DataType dims:int64* random_data:bool",
        "Entry": "key:string value:WarmupInput",
        "Warmup": "name:string batch_size:int32 inputs:Entry*",
        "Config": "name:string backend:string default_model_filename:string max_batch_size:int32 input:Tensor* "
        "output:Tensor* dynamic_batching:Batching instance_group:Group* model_warmup:Warmup*",
    }
    for message, words in fields.items():
        described = file.message_type.add(name=message)
        for number, word in enumerate(words.split(), 1):
            name, kind = word.rstrip("*").split(":")
            label = 3 if word.endswith("*") else 1
            if kind in types:
                described.field.add(name=name, number=number, label=label, type=types[kind])
            else:
                number_of = 14 if kind in ("DataType", "Kind") else 11
                described.field.add(
                    name=name, number=number, label=label, type=number_of, type_name=f".restated.{kind}"
                )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("restated.Config"))
