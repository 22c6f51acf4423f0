// Who waits for whom, as trees: the roots hold locks and wait for none.

export type Session = {
  pid: number;
  role: string | null;
  application: string | null;
  database: string | null;
  kind: string;
  state: string | null;
  started: string | null;
  /** Since when the statement runs, or the session is idle. */
  seconds: number | null;
  transaction_seconds: number | null;
  waiting_for: string | null;
  statement: string | null;
  statement_length: number | null;
  /** False if the role may not see the state and the statement. */
  visible: boolean;
  /** A session of this studio. */
  own: boolean;
  /** The sessions that it waits for; 0 is a prepared transaction. */
  blockers: number[];
  lock: string | null;
};

export type Wait = { pid: number; session: Session | undefined; waiting: Wait[] };

/** Return who waits for whom. A session that waits for two others is below both; of a circle, one session is the root. */
export function waitsOf(sessions: Session[]): Wait[] {
  const known = new Map(sessions.map((session) => [session.pid, session]));
  const waiting = sessions.filter(({ blockers }) => blockers.length);
  const shown = new Set<number>();
  const waitOf = (pid: number, above: number[]): Wait => {
    shown.add(pid);
    const path = [...above, pid];
    const next = waiting.filter((session) => session.blockers.includes(pid) && !path.includes(session.pid));
    return { pid, session: known.get(pid), waiting: next.map((session) => waitOf(session.pid, path)) };
  };
  const holders = new Set(waiting.flatMap(({ blockers }) => blockers));
  const roots = [...holders].filter((pid) => !known.get(pid)?.blockers.length);
  const trees = roots.map((pid) => waitOf(pid, []));
  for (const { pid } of waiting) if (!shown.has(pid)) trees.push(waitOf(pid, []));
  return trees;
}

/** Write a time: `0.4 s`, `12 s`, `3 min 4 s`, `2 h 5 min`. */
export function age(seconds: number): string {
  if (seconds < 10) return `${Math.max(0, seconds).toFixed(1)} s`;
  const whole = Math.floor(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}
