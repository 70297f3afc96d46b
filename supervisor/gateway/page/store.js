// What the page remembers: per tab (session id, signed config) and per browser (text size, screen reader mode).
//
// A browser may forbid storage altogether; the page then works all the same, but a reload finds neither session nor preferences.

const PREFIX = "terminal-supervisor.";

export class Store {
  #area;
  #memory = new Map();

  constructor(area) {
    this.#area = area;
  }

  get(name) {
    try {
      const text = this.#storage()?.getItem(PREFIX + name);
      return text == null ? (this.#memory.get(name) ?? null) : JSON.parse(text);
    } catch {
      return this.#memory.get(name) ?? null;
    }
  }

  set(name, value) {
    this.#memory.set(name, value);
    try {
      if (value === null) this.#storage()?.removeItem(PREFIX + name);
      else this.#storage()?.setItem(PREFIX + name, JSON.stringify(value));
    } catch {
      // Full or forbidden: the value lives as long as the page.
    }
  }

  #storage() {
    return window[this.#area];
  }
}

export const perTab = new Store("sessionStorage");
export const perBrowser = new Store("localStorage");
