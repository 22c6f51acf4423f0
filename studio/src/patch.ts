// Patching what is shown: elements that stay keep their focus, their scroll position and their open details.

/**
 * Change `shown` into `drawn`, which is used up. A child with a `data-key` stays the same element; the others are
 * compared by their place. Listeners of `drawn` are lost where an element stays, so listen on a parent.
 */
export function patch(shown: Element, drawn: Element): void {
  for (const { name } of [...shown.attributes])
    if (!drawn.hasAttribute(name) && name !== "open") shown.removeAttribute(name);
  for (const { name, value } of drawn.attributes)
    if (shown.getAttribute(name) !== value) shown.setAttribute(name, value);
  const focused = document.activeElement;
  const left = new Set(shown.childNodes);
  const keyed = new Map([...shown.children].map((child) => [keyOf(child), child]));
  [...drawn.childNodes].forEach((child, index) => {
    const place = shown.childNodes[index] ?? null;
    const known = keyOf(child) === undefined ? place : keyed.get(keyOf(child));
    if (!known || !left.has(known) || !isSameKind(known, child)) {
      shown.insertBefore(child, place);
      return;
    }
    left.delete(known);
    if (known !== place) shown.insertBefore(known, place);
    if (known instanceof Element) patch(known, child as Element);
    else if (known.nodeValue !== child.nodeValue) known.nodeValue = child.nodeValue;
  });
  for (const child of left) child.remove();
  // An element that moves loses its focus.
  if (focused instanceof HTMLElement && focused !== document.activeElement && shown.contains(focused))
    focused.focus({ preventScroll: true });
}

const keyOf = (node: Node): string | undefined => (node instanceof HTMLElement ? node.dataset.key : undefined);

const isSameKind = (one: Node, other: Node): boolean => one.nodeName === other.nodeName && keyOf(one) === keyOf(other);
