// Saves a drawing as a picture that needs no style sheet.

import { announce, h, s } from "./dom.ts";

const STYLES = [
  "fill",
  "stroke",
  "stroke-width",
  "stroke-linejoin",
  "font-family",
  "font-size",
  "font-weight",
  "text-anchor",
];
const PAGE_ATTRIBUTES = ["class", "tabindex", "role", "aria-label", "aria-hidden", "style"];
/** The pixels of a PNG for each pixel of the page. */
const SCALE = 2;

type Size = { width: number; height: number };

/** Write a drawing at its full size, in the colours of the page, as SVG; `view` selects the part that is moved and zoomed. */
export function pictureOf(svg: SVGSVGElement, { width, height }: Size, view?: string): string {
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
  if (view) copy.querySelector(view)?.removeAttribute("transform");
  copy.prepend(s("rect", { width, height, fill: getComputedStyle(document.body).backgroundColor }));
  return new XMLSerializer().serializeToString(copy);
}

const elementsOf = (svg: SVGSVGElement): SVGElement[] => [svg, ...svg.querySelectorAll<SVGElement>("*")];

/** Download a picture as SVG. */
export const saveSvg = (picture: string, name: string): void =>
  saveBlob(new Blob([picture], { type: "image/svg+xml" }), name);

/** Download a picture that `pictureOf` wrote as PNG. */
export async function savePng(picture: string, { width, height }: Size, name: string): Promise<void> {
  const image = new Image();
  // Not the address of a blob: the content security policy allows pictures from data only.
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(picture)}`;
  await image.decode();
  const canvas = h("canvas", { width: width * SCALE, height: height * SCALE });
  canvas.getContext("2d")?.drawImage(image, 0, 0, canvas.width, canvas.height);
  canvas.toBlob((blob) => (blob ? saveBlob(blob, name) : announce("The browser could not draw the picture.")));
}

/** Download content under a name. */
export function saveBlob(content: Blob, name: string): void {
  const address = URL.createObjectURL(content);
  h("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}
