// One session's connection: opens the WebSocket, authenticates, sends input and size, counts output, and comes back after a drop.
//
// The connection is always in one of four states, told through `onState`:
//   connecting  { resuming }                       waiting for the server's hello
//   connected   { hello, fresh }                   fresh: not the session whose output is on the screen, so clear it
//   waiting     { title, text, until }             will try again at `until` (milliseconds of performance.now())
//   ended       { code, title, text }              only the person can go on, with `connect({ fresh: true })`

import {
  OutputCounter,
  SUBPROTOCOL,
  backOff,
  chunks,
  closeMeaning,
  describeExit,
  parseMessage,
} from "./protocol.js";

const OPEN_TIMEOUT = 10_000; // for the upgrade
const HELLO_TIMEOUT = 60_000; // a cold sandbox may take half a minute
const QUIET = 25_000; // silence after which the server is asked whether it is there
const PONG_TIMEOUT = 10_000;
const PROBE_TIMEOUT = 4_000; // the same after waking up or going online, when a dead connection is likely
const STEADY = 10_000; // a connection that lasted this long was a success: the next back-off starts small
const BUFFERED_MAX = 256 * 1024; // bytes handed to the browser but not yet sent
const KEPT_FOR = 5_000; // after the loss of a connection: until then what is typed waits for the next one, later it is refused
const KEPT_MAX = 1024; // bytes of it
const PUMP_INTERVAL = 10; // WebSocket has no event for "sent", so a large paste looks again this often

export class Connection {
  #url;
  #handlers;
  #auth;
  #session;
  #socket = null;
  #state = { name: "ended" };
  #counter = new OutputCounter();
  #queue = [];
  #kept = [];
  #lostAt = -Infinity;
  #attempt = 0;
  #connectedAt = 0;
  #heardAt = 0;
  #words = "";
  #presented = false;
  #timers = { open: 0, retry: 0, pump: 0, pong: 0 };

  // `auth()` gives credentials and window size; `session` remembers the session's id: { get(), set(id or null) }.
  // `handlers`: onState(state), onMessage(message), onOutput({ history, live, replaying, rendered }) where `rendered` must be
  // called once all of it is on the screen, onGap({ from, to, rendered }), and onUnsent() when what was typed is not going to be sent.
  constructor(url, { auth, session, handlers }) {
    this.#url = url;
    this.#auth = auth;
    this.#session = session;
    this.#handlers = handlers;
    setInterval(() => this.#heartbeat(), 5_000);
  }

  get state() {
    return this.#state;
  }

  get connected() {
    return this.#state.name === "connected";
  }

  // Connect now, whatever the state. `fresh` forgets the session of before.
  connect({ fresh = false } = {}) {
    this.#drop();
    if (fresh) this.#forget();
    this.#presented = this.#session.get() !== null;
    this.#enter({ name: "connecting", resuming: this.#presented });
    const socket = new WebSocket(this.#url, [SUBPROTOCOL]);
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    this.#words = "";
    const mine = (handle) => (event) => socket === this.#socket && handle(event);
    socket.onopen = mine(() => this.#opened());
    socket.onmessage = mine((event) => this.#received(event.data));
    socket.onclose = mine((event) => this.#closed(event.code));
    this.#timers.open = setTimeout(() => this.#closed(1006), OPEN_TIMEOUT);
  }

  // Whether what is typed now waits for the session's next connection: one that is lost for a moment is not noticed in time.
  get keeps() {
    const { name, retry } = this.#state;
    return name !== "ended" && retry !== "later" && performance.now() - this.#lostAt < KEPT_FOR;
  }

  // Send input, or keep it for a moment. Keys typed blindly for longer do harm when they arrive; so does half of a line, so all
  // that was kept goes, too.
  send(bytes) {
    if (!this.connected) {
      this.#kept.push(bytes);
      const size = this.#kept.reduce((sum, piece) => sum + piece.length, 0);
      if (!this.keeps || size > KEPT_MAX) this.#discardKept();
      return;
    }
    for (const piece of chunks(bytes)) this.#queue.push(piece);
    this.#pump();
  }

  resize(size) {
    if (this.connected) this.#tell({ type: "resize", ...size });
  }

  // The screen has skipped output: the next connection asks for a replay.
  discard() {
    this.#counter.discard();
  }

  // End the session for everybody, and forget what is still to be typed. The server answers with a close.
  leave() {
    this.#queue = [];
    this.#kept = [];
    if (this.connected) this.#tell({ type: "leave" });
  }

  // The world changed (awake again, online again): try at once, or make sure that the connection is alive.
  probe() {
    if (this.#state.name === "waiting" && this.#state.retry === "now") this.connect();
    else if (this.connected && !this.#timers.pong) this.#ping(PROBE_TIMEOUT);
  }

  #opened() {
    clearTimeout(this.#timers.open);
    this.#timers.open = setTimeout(() => this.#closed(1006), HELLO_TIMEOUT);
    const message = { type: "auth", ...this.#auth() };
    const sessionId = this.#session.get();
    if (sessionId !== null) {
      message.sessionId = sessionId;
      if (this.#counter.resumeAt !== null) message.offset = this.#counter.resumeAt;
    }
    this.#tell(message);
  }

  #received(data) {
    this.#heardAt = performance.now();
    clearTimeout(this.#timers.pong);
    this.#timers.pong = 0;
    if (data instanceof ArrayBuffer) {
      if (!this.connected) return;
      const { history, live, end } = this.#counter.take(new Uint8Array(data));
      const { replaying } = this.#counter;
      this.#handlers.onOutput({ history, live, replaying, rendered: this.#acknowledger(end) });
      return;
    }
    const message = parseMessage(data);
    if (message === null) return;
    if (message.type === "hello") this.#hello(message);
    else if (message.type === "gap") this.#gap(message);
    else if (message.type === "exit") this.#words = describeExit(message);
    else if (message.type === "error") this.#words = String(message.message ?? "");
    this.#handlers.onMessage(message);
  }

  #hello(message) {
    clearTimeout(this.#timers.open);
    this.#connectedAt = performance.now();
    const fresh = message.sessionId !== this.#session.get();
    const lost = fresh && this.#presented;
    this.#session.set(message.sessionId);
    this.#counter.hello(message);
    if (fresh || !this.keeps) this.#discardKept();
    const kept = this.#kept;
    this.#kept = [];
    this.#enter({ name: "connected", hello: message, fresh, lost });
    for (const bytes of kept) this.send(bytes);
  }

  #gap({ from, to }) {
    this.#counter.gap({ to });
    this.#handlers.onGap({ from, to, rendered: this.#acknowledger(to) });
  }

  // What is rendered after its connection has gone is not acknowledged: the next one starts from `auth`'s offset.
  #acknowledger(end) {
    const socket = this.#socket;
    return () => {
      if (socket !== this.#socket || !this.connected) return;
      const offset = this.#counter.rendered(end);
      if (offset !== null) this.#tell({ type: "ack", offset });
    };
  }

  #closed(code) {
    if (this.connected) this.#lostAt = performance.now();
    const steady = this.connected && performance.now() - this.#connectedAt > STEADY;
    this.#drop();
    if (code === 4001 && this.#presented) {
      // The remembered session may belong to other credentials, from an earlier visit: ask for a new one, once.
      this.connect({ fresh: true });
      return;
    }
    const meaning = closeMeaning(code, this.#words);
    if (meaning.retry === "no") {
      this.#forget();
      this.#enter({ name: "ended", code, ...meaning });
      return;
    }
    if (steady) this.#attempt = 0;
    const delay = 1000 * backOff(this.#attempt++, meaning.retry);
    this.#timers.retry = setTimeout(() => this.connect(), delay);
    this.#enter({ name: "waiting", code, ...meaning, until: performance.now() + delay });
  }

  #heartbeat() {
    if (this.connected && !this.#timers.pong && performance.now() - this.#heardAt > QUIET) this.#ping(PONG_TIMEOUT);
  }

  #ping(timeout) {
    this.#tell({ type: "ping", id: Math.round(performance.now()) });
    this.#timers.pong = setTimeout(() => this.#closed(1006), timeout);
  }

  #pump() {
    clearTimeout(this.#timers.pump);
    while (this.#queue.length > 0 && this.#socket.bufferedAmount < BUFFERED_MAX) this.#socket.send(this.#queue.shift());
    if (this.#queue.length > 0) this.#timers.pump = setTimeout(() => this.#pump(), PUMP_INTERVAL);
  }

  #tell(message) {
    this.#socket.send(JSON.stringify(message));
  }

  // Let go of the socket, alive or not, and of everything that waits for it.
  #drop() {
    for (const name of Object.keys(this.#timers)) {
      clearTimeout(this.#timers[name]);
      this.#timers[name] = 0;
    }
    this.#queue = [];
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }

  #discardKept() {
    this.#lostAt = -Infinity;
    if (this.#kept.length > 0) this.#handlers.onUnsent();
    this.#kept = [];
  }

  #forget() {
    this.#discardKept();
    this.#session.set(null);
    this.#counter.discard();
    this.#attempt = 0;
  }

  #enter(state) {
    this.#state = state;
    this.#handlers.onState(state);
  }
}
