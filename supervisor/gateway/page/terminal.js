// The terminal: xterm.js, its colours, its size, its links, and what it may do on behalf of the program that it shows.
//
// A program may colour and move, ask the terminal for its state and be answered. It may not read or write the clipboard (OSC 52 is not
// handled), open a window, or hide where a link leads.

import { FitAddon } from "./vendor/addon-fit.mjs";
import { Unicode11Addon } from "./vendor/addon-unicode11.mjs";
import { WebLinksAddon } from "./vendor/addon-web-links.mjs";
import { Terminal } from "./vendor/xterm.mjs";
import { binaryStringBytes, isAutomaticAnswer, windowSize } from "./protocol.js";
import { withConstructedStyles } from "./styles.js";

const RESIZE_DELAY = 80; // milliseconds without a further change before the program is told
const HIDDEN_MAX = 512 * 1024; // bytes that a hidden page holds for the terminal before it skips output
const SCROLLBACK_LINES = 10_000;
const FONT =
  'ui-monospace, "SFMono-Regular", "Cascadia Mono", "JetBrains Mono", Menlo, Consolas, "DejaVu Sans Mono", "Liberation Mono", monospace';
export const FONT_SIZES = [10, 11, 12, 13, 14, 15, 16, 18, 20, 24, 28];

const DARK = {
  background: "#11151c",
  foreground: "#d7dde6",
  cursor: "#7cc7ff",
  cursorAccent: "#11151c",
  selectionBackground: "#2f4a6b",
  selectionInactiveBackground: "#263445",
  scrollbarSliderBackground: "#8b98a933",
  scrollbarSliderHoverBackground: "#8b98a966",
  scrollbarSliderActiveBackground: "#8b98a988",
  black: "#1c222c",
  red: "#ff7b84",
  green: "#8fd694",
  yellow: "#e9c46a",
  blue: "#7ab7ff",
  magenta: "#d3a4f9",
  cyan: "#6fd3d8",
  white: "#c6ced9",
  brightBlack: "#7d8999",
  brightRed: "#ff9ba1",
  brightGreen: "#aee5b0",
  brightYellow: "#f5d995",
  brightBlue: "#a3cdff",
  brightMagenta: "#e3c4fd",
  brightCyan: "#98e4e7",
  brightWhite: "#f5f7fa",
};

const LIGHT = {
  background: "#fbfbfd",
  foreground: "#1f2733",
  cursor: "#0b62c4",
  cursorAccent: "#fbfbfd",
  selectionBackground: "#b9d7fb",
  selectionInactiveBackground: "#dde5ef",
  scrollbarSliderBackground: "#5b687a33",
  scrollbarSliderHoverBackground: "#5b687a66",
  scrollbarSliderActiveBackground: "#5b687a88",
  black: "#1f2733",
  red: "#b3261e",
  green: "#1d6f2b",
  yellow: "#7a5600",
  blue: "#0b57b8",
  magenta: "#84309b",
  cyan: "#0b6771",
  white: "#5c6776",
  brightBlack: "#566172",
  brightRed: "#c5362d",
  brightGreen: "#2a7d38",
  brightYellow: "#8a6200",
  brightBlue: "#1a66cb",
  brightMagenta: "#953fac",
  brightCyan: "#127581",
  brightWhite: "#38424f",
};

const darkness = matchMedia("(prefers-color-scheme: dark)");
const stillness = matchMedia("(prefers-reduced-motion: reduce)");
const encoder = new TextEncoder();

export class TerminalView {
  #terminal;
  #fit = new FitAddon();
  #container;
  #handlers;
  #replaying = false;
  #pending = 0;
  #skipping = false;
  #timer = 0;

  // `handlers`: onInput(bytes), onSize({ cols, rows }), onSkip() (output is being skipped), onReturn() (the page is visible again and
  // output was skipped), onLink(url, fromProgram), onHover(url or null), onKey(event) (false keeps the key from the terminal),
  // transform(text) (what was typed as the person meant it: a sticky Ctrl).
  constructor(container, { fontSize, screenReaderMode, handlers }) {
    this.#container = container;
    this.#handlers = handlers;
    const links = {
      activate: (event, url) => handlers.onLink(url, true),
      hover: (event, url) => handlers.onHover(url),
      leave: () => handlers.onHover(null),
    };
    this.#terminal = new Terminal({
      allowProposedApi: true, // for the choice of Unicode version
      cursorBlink: !stillness.matches,
      drawBoldTextInBrightColors: false,
      fontFamily: FONT,
      fontSize,
      linkHandler: links,
      macOptionIsMeta: true,
      minimumContrastRatio: 4.5,
      screenReaderMode,
      scrollback: SCROLLBACK_LINES,
      theme: darkness.matches ? DARK : LIGHT,
    });
    this.#terminal.loadAddon(this.#fit);
    this.#terminal.loadAddon(new Unicode11Addon());
    this.#terminal.unicode.activeVersion = "11";
    this.#terminal.loadAddon(
      new WebLinksAddon((event, url) => handlers.onLink(url, false), { hover: links.hover, leave: links.leave }),
    );
    withConstructedStyles(() => this.#terminal.open(container));
    this.#terminal.attachCustomKeyEventHandler((event) => handlers.onKey(event));
    this.#terminal.onData((data) => this.#typed(data));
    this.#terminal.onBinary((data) => handlers.onInput(binaryStringBytes(data)));
    this.#terminal.onResize(() => this.#tellSize());
    new ResizeObserver(() => this.#fitSoon()).observe(container);
    document.addEventListener("visibilitychange", () => document.hidden || this.#shown());
    darkness.addEventListener("change", () => (this.#terminal.options.theme = darkness.matches ? DARK : LIGHT));
    stillness.addEventListener("change", () => (this.#terminal.options.cursorBlink = !stillness.matches));
    this.#fitNow();
  }

  get size() {
    return windowSize(this.#terminal.cols, this.#terminal.rows);
  }

  get alternate() {
    return this.#terminal.buffer.active.type === "alternate";
  }

  // Take the output of a new connection; `clear` when it is another session's.
  begin({ clear }) {
    this.#skipping = false;
    // Bytes, because those go through the same UTF-8 decoder as the output: CAN and RIS end whatever was cut short before them.
    this.#terminal.write(clear ? Uint8Array.of(0x18, 0x1b, 0x63) : "", () => (this.#replaying = false));
  }

  // There is no session any more: no cursor.
  end() {
    this.#terminal.write("\x1b[?25l");
  }

  // Show output. While `history` is shown the terminal answers nothing: the questions in it are old.
  //
  // Browsers slow the timers of a hidden page to one a second or a minute, and xterm.js renders from timers; a program must not wait
  // for that. So a hidden page says "rendered" on receipt, and when the terminal falls far behind skips output until it is shown
  // again; the scrollback is then asked for in one piece.
  write({ history, live, replaying, rendered }) {
    if (this.#skipping) {
      rendered();
      return;
    }
    if (history.length > 0) {
      // The flag changes where the terminal has got to, not where the network has.
      this.#terminal.write("", () => (this.#replaying = true));
      this.#terminal.write(history, () => (this.#replaying = replaying));
    }
    if (live.length > 0) {
      this.#pending += live.length;
      this.#terminal.write(live, () => {
        this.#pending -= live.length;
        rendered();
      });
    }
    if (!document.hidden) return;
    rendered();
    if (this.#pending > HIDDEN_MAX) {
      this.#skipping = true;
      this.#handlers.onSkip();
    }
  }

  // Show where output is missing; CAN ends an escape sequence that lost its second half.
  writeGap(text, rendered) {
    this.#terminal.write(this.alternate ? "\x18" : `\x18\r\n\x1b[0;2m${text}\x1b[0m\r\n`, rendered);
  }

  focus() {
    this.#terminal.focus();
  }

  paste(text) {
    this.#terminal.paste(text);
  }

  // Type as if by key, for buttons.
  input(text) {
    this.#terminal.input(text);
  }

  // Whether arrow keys send SS3 sequences (DECCKM), as full-screen programs ask for.
  get applicationCursor() {
    return this.#terminal.modes.applicationCursorKeysMode;
  }

  // Return the selected text, or else everything on the screen and in the scrollback.
  get text() {
    if (this.#terminal.hasSelection()) return this.#terminal.getSelection();
    const buffer = this.#terminal.buffer.active;
    let text = "";
    for (let y = 0; y < buffer.length; y++) {
      const line = buffer.getLine(y);
      const wraps = buffer.getLine(y + 1)?.isWrapped ?? false;
      text += line.translateToString(!wraps) + (wraps ? "" : "\n");
    }
    return `${text.trimEnd()}\n`;
  }

  get selected() {
    return this.#terminal.hasSelection();
  }

  set fontSize(size) {
    this.#terminal.options.fontSize = size;
    this.#fitNow();
  }

  set screenReaderMode(on) {
    this.#terminal.options.screenReaderMode = on;
  }

  #typed(data) {
    if (this.#replaying && isAutomaticAnswer(data)) return;
    this.#handlers.onInput(encoder.encode(this.#handlers.transform(data)));
  }

  #shown() {
    this.#fitSoon();
    if (this.#skipping) this.#handlers.onReturn();
  }

  #tellSize() {
    if (this.size !== null && !document.hidden) this.#handlers.onSize(this.size);
  }

  #fitSoon() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#fitNow(), RESIZE_DELAY);
  }

  #fitNow() {
    if (document.hidden || this.#container.clientWidth === 0 || this.#container.clientHeight === 0) return;
    const proposed = this.#fit.proposeDimensions();
    const size = proposed && windowSize(proposed.cols, proposed.rows);
    if (size && (size.cols !== this.#terminal.cols || size.rows !== this.#terminal.rows)) {
      this.#terminal.resize(size.cols, size.rows);
    }
  }
}
