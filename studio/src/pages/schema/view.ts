// Zooms and pans a drawing.

import type { Box } from "./layout.ts";

const [SMALLEST, LARGEST] = [0.15, 3];
/** A pointer that moves fewer pixels than this clicks; otherwise it drags. */
const CLICK_DISTANCE = 4;

export class View {
  private zoom = 1;
  private x = 0;
  private y = 0;
  private readonly svg: SVGSVGElement;
  private readonly scene: SVGGElement;
  private readonly size: { width: number; height: number };

  constructor(svg: SVGSVGElement, scene: SVGGElement, size: { width: number; height: number }) {
    this.svg = svg;
    this.scene = scene;
    this.size = size;
    svg.addEventListener("wheel", (event) => this.onWheel(event), { passive: false });
    svg.addEventListener("pointerdown", (event) => this.onPress(event));
    svg.addEventListener("dragstart", (event) => event.preventDefault());
  }

  showAll(): void {
    const { clientWidth, clientHeight } = this.svg;
    const { width, height } = this.size;
    this.zoom = Math.min(1.2, clientWidth / width, clientHeight / height) || 1;
    this.moveTo((clientWidth - width * this.zoom) / 2, (clientHeight - height * this.zoom) / 2);
  }

  /** Zoom around a point, by default the middle of the window. */
  zoomBy(factor: number, x = this.svg.clientWidth / 2, y = this.svg.clientHeight / 2): void {
    const zoom = Math.max(SMALLEST, Math.min(LARGEST, this.zoom * factor));
    const scale = zoom / this.zoom;
    this.zoom = zoom;
    this.moveTo(x - (x - this.x) * scale, y - (y - this.y) * scale);
  }

  moveBy(dx: number, dy: number): void {
    this.moveTo(this.x + dx, this.y + dy);
  }

  /** Pan so that a box is visible. */
  reveal(box: Box): void {
    const { clientWidth, clientHeight } = this.svg;
    const [left, top, width] = [box.x * this.zoom + this.x, box.y * this.zoom + this.y, box.width * this.zoom];
    const isWide = left >= 0 && left + width <= clientWidth;
    const isHigh = top >= 0 && top + 40 <= clientHeight;
    this.moveBy(isWide ? 0 : clientWidth / 2 - left - width / 2, isHigh ? 0 : 20 - top);
  }

  private moveTo(x: number, y: number): void {
    this.x = x;
    this.y = y;
    this.scene.setAttribute("transform", `translate(${x} ${y}) scale(${this.zoom})`);
  }

  private onWheel(event: WheelEvent): void {
    event.preventDefault();
    this.zoomBy(Math.exp(-event.deltaY / 500), event.offsetX, event.offsetY);
  }

  private onPress(press: PointerEvent): void {
    if (press.button) return;
    const { svg } = this;
    const [fromX, fromY] = [this.x - press.clientX, this.y - press.clientY];
    let isDrag = false;
    const drag = (event: PointerEvent): void => {
      isDrag ||= Math.hypot(event.clientX - press.clientX, event.clientY - press.clientY) >= CLICK_DISTANCE;
      if (!isDrag) return;
      svg.setPointerCapture(press.pointerId);
      this.moveTo(fromX + event.clientX, fromY + event.clientY);
    };
    const release = (): void => {
      svg.removeEventListener("pointermove", drag);
      // Otherwise a drag that ends on a table opens it.
      if (isDrag) svg.addEventListener("click", swallow, { once: true, capture: true });
    };
    svg.addEventListener("pointermove", drag);
    svg.addEventListener("pointerup", release, { once: true });
  }
}

function swallow(event: Event): void {
  event.preventDefault();
  event.stopPropagation();
}
