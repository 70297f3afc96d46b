// Lets xterm.js work under a Content-Security-Policy that forbids inline <style> elements.
//
// xterm.js writes its colours, font and scroll bar as text into <style> elements that it makes while it opens, and offers neither
// a nonce nor another way. Style sheets constructed by a script are not inline and need no permission, so for the time of `open`
// a request for a <style> element gets a stand-in that hands its text to such a sheet.

export function withConstructedStyles(open) {
  const create = document.createElement;
  document.createElement = function (name, options) {
    return String(name).toLowerCase() === "style" ? standIn() : create.call(document, name, options);
  };
  try {
    open();
  } finally {
    delete document.createElement;
  }
}

function standIn() {
  const sheet = new CSSStyleSheet();
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
  const element = document.createElement("template");
  Object.defineProperty(element, "textContent", { set: (text) => sheet.replaceSync(text) });
  return element;
}
