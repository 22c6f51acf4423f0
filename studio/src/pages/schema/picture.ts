// Saves the diagram as an SVG file that needs no style sheet.

import { h, s } from "../../dom.ts";

const STYLES = ["fill", "stroke", "stroke-width", "font-family", "font-size", "font-weight"];
const PAGE_ATTRIBUTES = ["class", "tabindex", "role", "aria-label", "style"];

/** Download the drawing at its full size, in the colours of the page. */
export function savePicture(
  svg: SVGSVGElement,
  { width, height }: { width: number; height: number },
  name: string,
): void {
  const copy = svg.cloneNode(true) as SVGSVGElement;
  const shown = elementsOf(svg);
  elementsOf(copy).forEach((element, index) => {
    const original = shown[index];
    if (!original) return;
    const style = getComputedStyle(original);
    for (const property of STYLES) element.setAttribute(property, style.getPropertyValue(property));
    for (const attribute of PAGE_ATTRIBUTES) element.removeAttribute(attribute);
  });
  const frame = { xmlns: "http://www.w3.org/2000/svg", viewBox: `0 0 ${width} ${height}`, width, height };
  for (const [attribute, value] of Object.entries(frame)) copy.setAttribute(attribute, String(value));
  copy.querySelector("g")?.removeAttribute("transform");
  copy.prepend(s("rect", { width, height, fill: getComputedStyle(document.body).backgroundColor }));
  download(new Blob([new XMLSerializer().serializeToString(copy)], { type: "image/svg+xml" }), name);
}

const elementsOf = (svg: SVGSVGElement): SVGElement[] => [svg, ...svg.querySelectorAll<SVGElement>("*")];

function download(content: Blob, name: string): void {
  const address = URL.createObjectURL(content);
  h("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
