// A search while the user types: it waits for a pause, and a later one cancels an earlier one.

const PAUSE_MS = 150;

type Run = (signal: AbortSignal) => void;

export class Latest {
  private request = new AbortController();
  private pause: ReturnType<typeof setTimeout> | undefined;

  /** Cancel what was asked before, and with it its statement on the server; run once no key was pressed for a moment. */
  afterPause(run: Run): void {
    this.stop();
    this.pause = setTimeout(() => this.now(run), PAUSE_MS);
  }

  now<T>(run: (signal: AbortSignal) => T): T {
    this.stop();
    this.request = new AbortController();
    return run(this.request.signal);
  }

  stop(): void {
    clearTimeout(this.pause);
    this.request.abort();
  }
}
