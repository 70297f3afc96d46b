// Puts the page together: credentials from the address, one connection, one terminal, and the interface around them.
//
// A keystroke goes terminal.js → here → connection.js → server; output comes back the same way. What frames mean is in protocol.js.

import { Connection } from "./connection.js";
import { ExtraKeys } from "./keys.js";
import { describeBytes, readFragment } from "./protocol.js";
import { perBrowser, perTab } from "./store.js";
import { FONT_SIZES, TerminalView } from "./terminal.js";
import { Interface } from "./ui.js";

const NO_ISOLATION = "No isolation: programs in this terminal run directly on the server's host.";
const TOKEN_NEEDED = "Open the address that the server printed last: it holds a token that works once.";
const CONFIG_NEEDED = "Go back to the page that sent you here, and open the terminal from there again.";
const LINKS = new Set(["http:", "https:"]);

const fragmentCredentials = takeCredentials();
if (fragmentCredentials !== null) perTab.set("credentials", fragmentCredentials);

let fontSize = perBrowser.get("fontSize") ?? (matchMedia("(max-width: 480px)").matches ? 12 : 14);
let reader = perBrowser.get("reader") ?? false;
let renewing = false; // the session is being left in order to start another
let reconnecting = false; // since the last drop

const page = new Interface({
  copy,
  smaller: () => stepFont(-1),
  larger: () => stepFont(1),
  reader: toggleReader,
  help: () => page.manual().then(() => view.focus()),
  renew,
  leave,
  "panel-action": proceed,
});

const extraKeys = new ExtraKeys(document.getElementById("keys"), () => view);

const { protocol, host } = location;
const connection = new Connection(`${protocol === "https:" ? "wss" : "ws"}://${host}/ws`, {
  auth: () => ({
    ...perTab.get("credentials"),
    ...view.size,
    environmentVariables: { TERM: "xterm-256color", COLORTERM: "truecolor" },
  }),
  session: { get: () => perTab.get("session"), set: (id) => perTab.set("session", id) },
  handlers: {
    onState: showState,
    onMessage: showMessage,
    onOutput: (output) => view.write(output),
    onGap: ({ from, to, rendered }) => {
      const text = `${describeBytes(to - from)} of output not shown`;
      page.note(text);
      view.writeGap(`[${text}]`, rendered);
    },
    onUnsent: () => page.note("Not connected: what you type is not sent"),
  },
});

const view = new TerminalView(document.getElementById("terminal"), {
  fontSize,
  screenReaderMode: reader,
  handlers: {
    onInput: (bytes) => connection.send(bytes),
    onSize: (size) => connection.resize(size),
    onSkip: () => connection.discard(),
    onReturn: () => connection.connect(),
    onLink: openLink,
    onHover: (url) => page.link(url),
    onKey: terminalKey,
    transform: (text) => extraKeys.transform(text),
  },
});

page.pressed("reader", reader);
addEventListener("online", () => connection.probe());
addEventListener("pageshow", (event) => event.persisted && connection.probe());
document.addEventListener("visibilitychange", () => document.hidden || connection.probe());
document.addEventListener("keydown", pageKey);
// iOS lays its keyboard over the page instead of making the page smaller.
visualViewport.addEventListener("resize", () => {
  document.body.style.height = visualViewport.scale === 1 ? `${visualViewport.height}px` : "";
});
connection.connect();
view.focus();

// Read credentials from the address, and take them out of it, so that they are not bookmarked, shared or shown.
function takeCredentials() {
  const credentials = readFragment(location.hash);
  const query = new URLSearchParams(location.search);
  if (location.hash !== "" || query.has("token")) {
    query.delete("token");
    const rest = query.size > 0 ? `?${query}` : "";
    history.replaceState(history.state, "", location.pathname + rest);
  }
  return credentials;
}

function showState(state) {
  if (state.name === "connecting") {
    page.status("connecting", reconnecting ? "Reconnecting…" : state.resuming ? "Resuming…" : "Connecting…");
  } else if (state.name === "connected") {
    connected(state);
  } else {
    page.viewers(0);
    page.warning(null, null);
    if (state.name === "waiting") {
      reconnecting = true;
      page.status("waiting", state.retry === "later" ? "Trying again" : "Reconnecting", state.until);
      page.panel(state.title, state.text, "Try now", { brief: state.retry === "now" });
    } else {
      ended(state);
    }
  }
}

function connected({ hello, fresh, lost }) {
  reconnecting = false;
  page.status("connected", "Connected");
  const panelHadFocus = page.noPanel();
  page.isolation(hello.notice ?? (hello.isolated ? null : NO_ISOLATION));
  page.warning(null, null);
  page.lifetime(hello.endsInMs);
  view.begin({ clear: fresh });
  if (lost) page.note("The earlier session has ended; this is a new one");
  if (hello.role === "viewer") page.note("You can watch this session, but not type");
  connection.resize(view.size); // it may have changed since `auth`
  if (panelHadFocus) view.focus();
}

function ended({ code, title, text }) {
  reconnecting = false;
  if (renewing && code === 4000) {
    restart();
    return;
  }
  renewing = false;
  view.end();
  page.status("ended", title);
  if (code === 4001) page.panel(title, perTab.get("credentials") === null ? TOKEN_NEEDED : `${text} ${CONFIG_NEEDED}`, "Try again");
  else page.panel(title, `${text} Press Enter to start a new session.`, "Start new session");
}

function showMessage(message) {
  if (message.type === "viewers") {
    page.viewers(message.writers + message.viewers);
  } else if (message.type === "notice") {
    page.note(message.message);
  } else if (message.type === "warning") {
    const text = message.kind === "idle" ? "Press any key to keep this session. It ends in" : "This session reaches its maximum duration. It ends in";
    page.warning(text, performance.now() + message.endsInMs);
  } else if (message.type === "warningCleared") {
    page.warning(null, null);
  }
}

function restart() {
  renewing = false;
  connection.connect({ fresh: true });
  view.focus();
}

// The panel's button, and Enter while there is no session.
function proceed() {
  if (connection.state.name === "ended") restart();
  else if (connection.state.name === "waiting") connection.connect();
  view.focus();
}

async function renew() {
  if (!connection.connected) {
    restart();
  } else if (await page.ask("Start a new session?", "This one ends, and everything in it is deleted.", "Start new session")) {
    renewing = true;
    connection.leave();
  }
  view.focus();
}

async function leave() {
  if (await page.ask("End this session?", "Its programs are stopped, and everything in it is deleted.", "End session")) {
    connection.leave();
  }
  view.focus();
}

async function copy() {
  const whole = !view.selected;
  await copyText(view.text);
  page.note(whole ? "Copied everything" : "Copied the selection");
  view.focus();
}

// The clipboard's interface exists on https and loopback only; elsewhere the older way, which needs a selection in the document.
async function copyText(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

function stepFont(step) {
  const index = FONT_SIZES.findIndex((size) => size >= fontSize);
  fontSize = FONT_SIZES[Math.max(0, Math.min(FONT_SIZES.length - 1, index + step))];
  perBrowser.set("fontSize", fontSize);
  view.fontSize = fontSize;
  page.note(`Text size ${fontSize}`);
}

function toggleReader() {
  reader = !reader;
  perBrowser.set("reader", reader);
  view.screenReaderMode = reader;
  page.pressed("reader", reader);
  page.note(reader ? "Screen reader mode on" : "Screen reader mode off");
}

// Links of a program (OSC 8) can show one address and lead to another, so they are asked about; those in the text show themselves.
async function openLink(url, fromProgram) {
  if (!URL.canParse(url) || !LINKS.has(new URL(url).protocol)) return;
  if (fromProgram && !(await page.ask("Open this link?", url, "Open link"))) return;
  window.open(url, "_blank", "noopener,noreferrer");
}

// Return false to keep a key from the terminal.
function terminalKey(event) {
  if (event.type !== "keydown") return true;
  if (isLeaveKey(event)) return false;
  if (event.ctrlKey && event.shiftKey && event.code === "KeyC") {
    event.preventDefault();
    if (view.selected) copy();
    return false;
  }
  if (event.key === "Enter" && !connection.connected) {
    const kept = connection.keeps;
    proceed();
    return kept;
  }
  return true;
}

function pageKey(event) {
  if (isLeaveKey(event)) {
    event.preventDefault();
    page.enterTools();
  } else if (event.key === "Escape" && event.target.closest("header, #panel, #keys")) {
    page.leaveTools();
    view.focus();
  }
}

function isLeaveKey(event) {
  return event.ctrlKey && event.shiftKey && event.key === "ArrowUp";
}
