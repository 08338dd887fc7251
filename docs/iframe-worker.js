// The search of the site when it is opened from a disk, where a browser starts no worker: the worker's script runs in a
// hidden frame, and messages go to and fro as events. The theme looks for the name IFrameWorker.
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      const inner = this.frame.contentDocument;
      inner.open();
      this.frame.contentWindow.answer = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      inner.write("<script>postMessage = (data) => answer(data);</" + "script>");
      const script = inner.createElement("script");
      script.src = url;
      this.loaded = new Promise((done) => script.addEventListener("load", done));
      inner.close();
      (inner.body || inner.documentElement).append(script);
    }

    postMessage(data) {
      this.loaded.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })));
    }

    terminate() {
      this.frame.remove();
    }
  };
  window.Worker = window.IFrameWorker;
}
