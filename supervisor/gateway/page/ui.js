// Everything around the terminal: status, banners, panel, buttons, dialogs. Shows what it is told and reports what is pressed; it
// decides nothing about sessions.

import { describeDuration } from "./protocol.js";

const TITLE = document.title;
const NOTE_TIME = 4_000; // milliseconds
const FINAL_SECONDS = 10; // a timeout this near is announced once more

const element = (id) => document.getElementById(id);

export class Interface {
  #until = null; // of the reconnect, milliseconds of performance.now()
  #deadline = null; // of the session, likewise
  #announced = false;
  #ticker = 0;
  #noteTimer = 0;

  // `actions` maps the ids of buttons to what they do.
  constructor(actions) {
    for (const [id, action] of Object.entries(actions)) {
      element(id).addEventListener("click", () => {
        this.#foldMenu();
        action();
      });
    }
    element("menu").addEventListener("click", () => this.#foldMenu(element("menu").ariaExpanded === "true"));
    document.addEventListener("pointerdown", (event) => {
      if (!event.target.closest("#tools, #menu")) this.#foldMenu();
    });
  }

  // `name` colours the dot; `until` adds a countdown.
  status(name, text, until = null) {
    document.body.dataset.state = name;
    setText(element("status-text"), text);
    document.title = name === "connected" ? TITLE : `${text} · ${TITLE}`;
    this.#until = until;
    element("leave").disabled = name !== "connected";
    this.#tick();
  }

  // What happened and what can be done about it, below the terminal or (`brief`: it may be over in a moment) over its lower edge.
  // The panel is never taken out of the document, because screen readers announce changes of what was there before.
  panel(title, text, action, { brief = false } = {}) {
    setText(element("panel-title"), title);
    setText(element("panel-text"), text);
    setText(element("panel-action"), action);
    element("panel-action").hidden = false;
    element("panel").className = brief ? "open brief" : "open";
  }

  // Return whether the keyboard was there.
  noPanel() {
    const focused = element("panel").contains(document.activeElement);
    for (const id of ["panel-title", "panel-text", "panel-action"]) setText(element(id), "");
    element("panel-action").hidden = true;
    element("panel").className = "";
    return focused;
  }

  isolation(text) {
    element("isolation").hidden = text === null;
    setText(element("isolation"), text ?? "");
  }

  // When the session ends, whatever is typed: a tooltip for those who ask.
  lifetime(milliseconds) {
    const end = new Date(Date.now() + milliseconds).toLocaleTimeString([], { timeStyle: "short" });
    element("status").title = `This session ends at ${end} at the latest`;
  }

  viewers(count) {
    element("viewers").hidden = count < 2;
    setText(element("viewers"), count < 2 ? "" : `${count} viewers`);
  }

  // `deadline`: milliseconds of performance.now(); null takes the warning away.
  warning(text, deadline) {
    element("warning").hidden = text === null;
    setText(element("warning-text"), text ?? "");
    this.#deadline = deadline;
    this.#announced = false;
    this.#tick();
  }

  note(text) {
    clearTimeout(this.#noteTimer);
    setText(element("note"), text);
    this.#noteTimer = setTimeout(() => setText(element("note"), ""), NOTE_TIME);
  }

  link(url) {
    element("link").hidden = url === null;
    setText(element("link"), url ?? "");
  }

  pressed(id, on) {
    element(id).ariaPressed = String(on);
  }

  // Ask, and return whether the answer was yes.
  async ask(title, text, yes) {
    const dialog = element("question");
    if (dialog.open) return false;
    setText(element("question-title"), title);
    setText(element("question-text"), text);
    setText(element("question-yes"), yes);
    return (await showDialog(dialog)) === "yes";
  }

  manual() {
    return showDialog(element("manual"));
  }

  // Take the keyboard to the buttons.
  enterTools() {
    if (element("menu").checkVisibility()) {
      this.#foldMenu(false);
      element("menu").focus();
    } else {
      element("copy").focus();
    }
  }

  leaveTools() {
    this.#foldMenu();
  }

  #foldMenu(folded = true) {
    element("menu").ariaExpanded = String(!folded);
  }

  #tick() {
    const now = performance.now();
    setText(element("status-countdown"), this.#until === null ? "" : `in ${describeDuration(this.#until - now)}`);
    const left = this.#deadline === null ? null : this.#deadline - now;
    setText(element("warning-countdown"), left === null ? "" : describeDuration(left));
    if (left !== null && left < FINAL_SECONDS * 1000 && !this.#announced) {
      this.#announced = true;
      this.note(`${FINAL_SECONDS} seconds left`);
    }
    clearTimeout(this.#ticker);
    if (this.#until !== null || this.#deadline !== null) this.#ticker = setTimeout(() => this.#tick(), 250);
  }
}

// Live regions announce every change of their content, so nothing is written that is there already.
function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

function showDialog(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true }));
}
