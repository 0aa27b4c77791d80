// Returns the visible texts whose contrast to their background is below WCAG 2.2 AA: 4.5, or
// 3 for large text. An expression that the test evaluates in the page.
(() => {
  const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  /** Red, green, blue (0 to 255) and alpha (0 to 1) of any CSS colour. */
  const parse = (colour) => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], below) => [r, g, b].map((value, at) => value * a + below[at] * (1 - a));
  const luminance = (rgb) => {
    const [r, g, b] = rgb.map((value) => {
      const s = value / 255;
      return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (one, other) => {
    const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const ancestors = (element) => {
    const all = [];
    for (let at = element; at; at = at.parentElement) all.push(at);
    return all;
  };
  /** The colour behind an element: the backgrounds of its ancestors, from the outermost in. */
  const backdrop = (element) => {
    let chain = ancestors(element);
    // A dialog is above the page.
    const dialog = chain.findIndex((one) => one.tagName === "DIALOG");
    if (dialog >= 0) chain = chain.slice(0, dialog + 1);
    const canvas = parse(getComputedStyle(document.documentElement).backgroundColor);
    return chain.reverse().reduce((below, one) => over(parse(getComputedStyle(one).backgroundColor), below), canvas.slice(0, 3));
  };
  const faults = [];
  let texts = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const content = walker.currentNode.data.trim();
    const unseen = element.closest(".unseen, .flat, script, noscript, option, :disabled") !== null;
    if (!content || unseen || !element.checkVisibility({ visibilityProperty: true })) continue;
    texts += 1;
    const style = getComputedStyle(element);
    const behind = backdrop(element);
    const opacity = ancestors(element).reduce((product, one) => product * Number(getComputedStyle(one).opacity), 1);
    const [r, g, b, a] = parse(style.color);
    const contrast = ratio(over([r, g, b, a * opacity], behind), behind);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (contrast < (large ? 3 : 4.5)) {
      faults.push(`${content.slice(0, 40)} (${element.className || element.id || element.tagName}): ${contrast.toFixed(2)}`);
    }
  }
  for (const input of document.querySelectorAll("input")) {
    if (!input.checkVisibility()) continue;
    const behind = backdrop(input);
    const contrast = ratio(over(parse(getComputedStyle(input, "::placeholder").color), behind), behind);
    if (contrast < 4.5) faults.push(`placeholder of ${input.id}: ${contrast.toFixed(2)}`);
  }
  return { texts, faults };
})()
