// The parameters of the calls: those of `jobs.py`.
export const ROWS = Array.from({ length: 1000 }, (_, i) => ({ user_id: i + 1, class_id: (i % 100) + 1, date: "2030-01-01" }));

export function parameters(i) {
  const user = ((i * 7919) % 20000) + 1;
  return { user, clerk: `user_${user}`, gym: (user % 100) + 1, class: (user % 2000) + 1, recipients: [String(user)] };
}
