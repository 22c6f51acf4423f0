// The open transactions of the SQL tabs, which the frame marks on every page and a save that waits for one names.

export type OpenTransaction = {
  /** The title of the tab. */
  title: () => string;
  /** Make the tab the one that the SQL page shows. */
  show: () => void;
};

const open = new Map<string, OpenTransaction>();
const listeners = new Set<() => void>();

/** Call `listener` whenever a transaction begins or ends. */
export function onTransactions(listener: () => void): void {
  listeners.add(listener);
}

/** Record that the session of a tab has an open transaction, or has none. */
export function noteTransaction(session: string, transaction: OpenTransaction | null): void {
  if (open.has(session) === (transaction !== null)) return;
  if (transaction) open.set(session, transaction);
  else open.delete(session);
  for (const listener of listeners) listener();
}

export const openTransactions = (): OpenTransaction[] => [...open.values()];

/** Return the transaction of a session; none if its tab is in another window. */
export const transactionOf = (session: string): OpenTransaction | undefined => open.get(session);
