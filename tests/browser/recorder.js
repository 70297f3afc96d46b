// Runs in the page before its own scripts and notes what crosses the WebSockets and what the content policy refuses. Tests read `recorder`.
(() => {
  const Native = window.WebSocket;
  const recorder = { connections: [], violations: [], opened: [] };
  Object.defineProperty(window, "recorder", { value: recorder });

  document.addEventListener("securitypolicyviolation", (event) => {
    recorder.violations.push(`${event.violatedDirective}: ${event.blockedURI} ${event.sample}`);
  });
  window.open = (...args) => {
    recorder.opened.push(args);
    return null;
  };

  window.WebSocket = class extends Native {
    constructor(...args) {
      super(...args);
      const connection = { messages: [], sent: [], live: [], liveBytes: 0, replayBytes: 0, inputBytes: 0 };
      connection.abort = () => super.close();
      recorder.connections.push(connection);
      let replay = 0;
      this.addEventListener("message", ({ data }) => {
        if (typeof data === "string") {
          const message = JSON.parse(data);
          if (message.type === "hello") replay = message.replay;
          connection.messages.push(message);
          return;
        }
        const bytes = new Uint8Array(data.slice(0));
        const history = Math.min(replay, bytes.length);
        replay -= history;
        connection.replayBytes += history;
        connection.live.push(bytes.subarray(history));
        connection.liveBytes += bytes.length - history;
      });
      this.connection = connection;
    }

    send(data) {
      if (typeof data === "string") this.connection.sent.push(JSON.parse(data));
      else this.connection.inputBytes += data.byteLength;
      super.send(data);
    }
  };

  // All live output of all connections, in order, as base64: what a byte-exact resume makes one stream.
  recorder.stream = async () => {
    const reader = new FileReader();
    reader.readAsDataURL(new Blob(recorder.connections.flatMap(({ live }) => live)));
    await new Promise((resolve) => (reader.onload = resolve));
    return reader.result.slice(reader.result.indexOf(",") + 1);
  };
})();
