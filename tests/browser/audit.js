// Questions about the page as a whole, for tests of its looks and its accessibility: `audit.overflow()`, `audit.unnamed()`,
// `audit.contrast(least)`, each a list of what is wrong.
(() => {
  const shown = (selector) => [...document.querySelectorAll(selector)].filter((element) => element.checkVisibility());
  const name = (element) => element.outerHTML.slice(0, 100);

  // What sticks out of the window sideways.
  const overflow = () => {
    const parts = shown("header *, #banners *, #panel *, #keys *, main, #terminal, .xterm-screen, dialog");
    const wide = document.documentElement.scrollWidth > innerWidth ? ["the page scrolls sideways"] : [];
    return [...wide, ...parts.filter((element) => element.getBoundingClientRect().right > innerWidth + 0.5).map(name)];
  };

  // Controls that a screen reader has no word for, and ids that occur twice. Live regions may be empty.
  const unnamed = () => {
    const controls = shown("button, input, textarea, a, [role]").filter(
      (element) => !element.closest("[aria-hidden]") && !["status", "alert"].includes(element.role),
    );
    const ids = [...document.querySelectorAll("[id]")].map(({ id }) => id);
    return [
      ...controls.filter((element) => !element.ariaLabel && !element.textContent.trim()).map(name),
      ...ids.filter((id, index) => ids.indexOf(id) !== index),
    ];
  };

  // Text whose contrast with its background (WCAG 2.2, 1.4.3) is below `least`. Disabled controls are exempt there.
  const contrast = (least) => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const rgba = (color) => {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = color;
      canvas.fillRect(0, 0, 1, 1);
      return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const luminance = (color) =>
      color
        .slice(0, 3)
        .map((value) => value / 255)
        .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
        .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
    const background = (element) => {
      const color = rgba(getComputedStyle(element).backgroundColor);
      return color[3] === 255 || !element.parentElement ? color : background(element.parentElement);
    };
    const hasText = (element) => [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
    return shown("body *")
      .filter((element) => hasText(element) && !element.disabled && !element.closest("noscript, .xterm-helpers"))
      .map((element) => {
        const pair = [luminance(rgba(getComputedStyle(element).color)), luminance(background(element))];
        return [(Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05), name(element)];
      })
      .filter(([ratio]) => ratio < least);
  };

  Object.defineProperty(window, "audit", { value: { overflow, unnamed, contrast } });
})();
