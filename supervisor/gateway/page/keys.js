// The row of keys that on-screen keyboards lack: Esc, Tab, Ctrl, arrows. Shown where the pointer is a finger.

const SEQUENCES = { escape: "\x1b", tab: "\t", interrupt: "\x03" };
const ARROWS = { up: "A", down: "B", right: "C", left: "D" };

export class ExtraKeys {
  #control;
  #armed = false;

  constructor(row, view) {
    this.#control = row.querySelector('[data-key="control"]');
    // Without this the terminal loses the focus to the button, and the on-screen keyboard folds away.
    row.addEventListener("pointerdown", (event) => event.preventDefault());
    row.addEventListener("click", (event) => {
      const key = event.target.closest("button")?.dataset.key;
      if (key === "control") this.#arm(!this.#armed);
      else if (key in ARROWS) view().input(`\x1b${view().applicationCursor ? "O" : "["}${ARROWS[key]}`);
      else if (key !== undefined) view().input(SEQUENCES[key]);
    });
  }

  // Return what was typed, with Ctrl held down if it was pressed before.
  transform(text) {
    if (!this.#armed) return text;
    this.#arm(false);
    return /^[a-zA-Z@[\\\]^_ ?]$/.test(text) ? String.fromCharCode(text === "?" ? 0x7f : text.charCodeAt(0) & 0x1f) : text;
  }

  #arm(on) {
    this.#armed = on;
    this.#control.ariaPressed = String(on);
  }
}
