// The client's half of terminal-supervisor.v1, without sockets, clocks or a document: what a frame means, how output bytes are
// counted and acknowledged, what each close code asks for. Everything here is a pure function or a small class, so it can be
// tested without a server. The protocol itself is described in docs/protocol-v1.md.

export const SUBPROTOCOL = "terminal-supervisor.v1";

// The server accepts 1 MiB messages after authentication; 64 KiB chunks let keys typed after a paste pass soon.
export const INPUT_CHUNK = 64 * 1024;

export const LIMIT = { minCols: 2, minRows: 1, max: 1000 };

// What to do after a close: "now" reconnects with a short back-off, "later" with a long one, "no" waits for the person.
const MISUNDERSTOOD = {
  retry: "no",
  title: "Connection refused",
  text: "Page and server do not understand each other. Reload the page to get its newest version.",
};
const CLOSES = {
  1000: { retry: "now", title: "Connection closed", text: "The server closed the connection." },
  1001: { retry: "now", title: "Server restarting", text: "The server is going away for a moment." },
  1002: MISUNDERSTOOD,
  1003: MISUNDERSTOOD,
  1007: MISUNDERSTOOD,
  1009: { retry: "no", title: "Too much at once", text: "The page sent more in one piece than the server accepts." },
  1011: { retry: "now", title: "Server error", text: "The server had an internal error." },
  1013: { retry: "later", title: "No sandbox", text: "A sandbox could not be started now." },
  4000: { retry: "no", title: "Session ended", text: "The command ended." },
  4001: { retry: "no", title: "Not signed in", text: "The server does not accept this page's credentials." },
  4002: { retry: "no", title: "Session ended", text: "Nobody typed for too long." },
  4003: { retry: "later", title: "Too many requests", text: "The server asks this page to slow down." },
  4004: { retry: "no", title: "Session ended", text: "The server ended the session." },
  4008: { retry: "no", title: "Disconnected", text: "The server did not accept what this page asked for." },
  4009: { retry: "later", title: "No free session", text: "All sessions are taken at the moment." },
  4010: { retry: "now", title: "Connection too slow", text: "This page did not take the session's output in time." },
};
const LOST = { retry: "now", title: "Connection lost", text: "The page reconnects by itself. Your session goes on meanwhile." };

// Return { retry, title, text } for a close code; `words` is what the server said about it, if anything.
export function closeMeaning(code, words = "") {
  const meaning = CLOSES[code] ?? LOST;
  return { ...meaning, text: words || meaning.text };
}

// Seconds to wait before attempt 0, 1, 2 …: doubling, with jitter so that many pages do not return in the same instant.
export function backOff(attempt, retry, random = Math.random) {
  const [first, most] = retry === "later" ? [15, 60] : [0.5, 8];
  return Math.min(most, first * 2 ** Math.min(attempt, 16)) * (0.75 + 0.25 * random());
}

// Return the object that a text frame carries, or null when it is not one that this page knows how to read.
export function parseMessage(text) {
  let message;
  try {
    message = JSON.parse(text);
  } catch {
    return null;
  }
  return message !== null && typeof message === "object" && typeof message.type === "string" ? message : null;
}

// Counts output. `take` says which part of a binary frame is history (shown, not counted) and which is live; `rendered` says when an
// acknowledgement is due; `resumeAt` is what a reconnect asks for: the absolute offset of the next byte wanted, or null when the
// screen does not show everything before it, so that a replay is needed.
export class OutputCounter {
  #received = 0;
  #whole = false;
  #replay = 0;
  #quantum = 1;
  #acknowledged = 0;

  hello({ offset, replay, window }) {
    this.#received = offset;
    this.#whole = true;
    this.#replay = replay;
    this.#quantum = Math.max(1, Math.floor(window / 4));
    this.#acknowledged = offset;
  }

  // Bytes up to `to` are lost. They count as due, so that `to` itself is acknowledged as soon as the screen is that far.
  gap({ to }) {
    this.#received = to;
    this.#acknowledged = to - this.#quantum;
  }

  // What was counted is not, or no longer, on the screen.
  discard() {
    this.#whole = false;
  }

  get resumeAt() {
    return this.#whole && !this.replaying ? this.#received : null;
  }

  get replaying() {
    return this.#replay > 0;
  }

  take(bytes) {
    const history = bytes.subarray(0, Math.min(this.#replay, bytes.length));
    const live = bytes.subarray(history.length);
    this.#replay -= history.length;
    this.#received += live.length;
    return { history, live, end: this.#received };
  }

  // Return the offset to acknowledge now that everything before `offset` is on the screen, or null when it can wait.
  rendered(offset) {
    if (offset - this.#acknowledged < this.#quantum) return null;
    this.#acknowledged = offset;
    return offset;
  }
}

// Yield `bytes` in order, in pieces that the server takes.
export function* chunks(bytes, size = INPUT_CHUNK) {
  for (let start = 0; start < bytes.length; start += size) yield bytes.subarray(start, start + size);
}

// The bytes of one of xterm.js's "binary strings" (legacy mouse reports): one byte per character.
export function binaryStringBytes(text) {
  return Uint8Array.from(text, (character) => character.charCodeAt(0) & 0xff);
}

// Whether `data` is something that a terminal says by itself: device attributes, status and cursor reports, mode and setting
// reports, colours, window reports, focus. While history is shown these would be typed into today's shell, so the page drops them.
// (A modified F3 looks like a cursor report; that key is lost for as long as a replay lasts, which is milliseconds.)
const AUTOMATIC_ANSWER =
  /^(?:\x1b\[[?>=]?[\d;]*(?:[cnRt]|\$y)|\x1b\[[IO]|\x1bP[^\x1b]*\x1b\\|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\))+$/;

export function isAutomaticAnswer(data) {
  return AUTOMATIC_ANSWER.test(data);
}

// Return the window size to tell the server, within what it accepts, or null when there is nothing sensible to tell.
export function windowSize(cols, rows) {
  if (!(cols >= LIMIT.minCols && rows >= LIMIT.minRows)) return null;
  return { cols: Math.min(LIMIT.max, Math.floor(cols)), rows: Math.min(LIMIT.max, Math.floor(rows)) };
}

// Read credentials from a URL fragment: `config` (JSON, percent-encoded or base64url; passed on exactly as signed) and
// `signature` (hexadecimal). Return null when the fragment holds none, or none that can be read.
export function readFragment(fragment) {
  const fields = new Map();
  for (const part of fragment.replace(/^#/, "").split("&")) {
    const separator = part.indexOf("=");
    if (separator > 0) fields.set(part.slice(0, separator), part.slice(separator + 1));
  }
  const signature = fields.get("signature") ?? "";
  if (!fields.has("config") || !/^[0-9a-fA-F]+$/.test(signature)) return null;
  try {
    const text = decodeURIComponent(fields.get("config"));
    return { config: text.startsWith("{") ? text : decodeBase64Url(text), signature };
  } catch {
    return null;
  }
}

function decodeBase64Url(text) {
  const binary = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
  return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(binaryStringBytes(binary));
}

// How a command ended, for people. Signals are named where everybody's numbers agree.
const SIGNALS = { 1: "HUP", 2: "INT", 3: "QUIT", 6: "ABRT", 9: "KILL", 11: "SEGV", 13: "PIPE", 14: "ALRM", 15: "TERM" };

export function describeExit({ code, signal }) {
  if (signal) return `The command was ended by signal ${SIGNALS[signal] ?? signal}.`;
  return code === 0 || code === null ? "The command ended." : `The command ended with exit status ${code}.`;
}

// "58 s", "4 min", "1 h 5 min": durations as the page shows them.
export function describeDuration(milliseconds) {
  const seconds = Math.max(0, Math.ceil(milliseconds / 1000));
  if (seconds < 100) return `${seconds} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  return minutes % 60 === 0 ? `${minutes / 60} h` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export function describeBytes(count) {
  if (count < 1024) return count === 1 ? "1 byte" : `${count} bytes`;
  return count < 1024 * 1024 ? `${Math.round(count / 1024)} KiB` : `${(count / 1024 / 1024).toFixed(1)} MiB`;
}
