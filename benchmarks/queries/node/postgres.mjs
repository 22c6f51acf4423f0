// The jobs on postgres.js, as its documentation writes them: tagged statements, which it prepares, and a pool of 20.
import postgres from "postgres";
import { ROWS, parameters } from "./numbers.mjs";

// JSON has no timestamps, and postgres.js leaves its values as they are. Each client has to return the same values.
const TIMESTAMPS = new Set(["created_at", "deleted_at", "approved_at", "denied_at", "migrated_at", "valid_until"]);
const revive = (name, value) => (value !== null && TIMESTAMPS.has(name) ? new Date(value) : value);

export function open(way, socket, database) {
  const sql = postgres({
    host: socket, database, username: "postgres", max: 20, prepare: way !== "postgresjs_unprepared", onnotice: () => {},
    types: { json: { to: 114, from: [114], serialize: JSON.stringify, parse: (text) => JSON.parse(text, revive) } },
  });
  const graduationsOf = (users) => sql`SELECT * FROM graduations WHERE user_id = ANY(${users})`;
  const jobs = {
    1: async (p) => (await sql`
      SELECT *, (SELECT row_to_json(gyms) FROM gyms WHERE gyms.id = users.gym_id) AS gym,
        (SELECT coalesce(json_agg(graduations), '[]') FROM graduations WHERE user_id = users.id) AS graduations
      FROM users WHERE clerk_user_id = ${p.clerk} LIMIT 1`)[0],
    2: (p) => sql`
      SELECT *, (SELECT row_to_json(gyms) FROM gyms WHERE gyms.id = class.gym_id) AS gym,
        (SELECT row_to_json(users) FROM users WHERE users.id = class.instructor_id) AS instructor,
        (SELECT coalesce(json_agg(assets), '[]') FROM assets WHERE class_id = class.id) AS assets
      FROM class WHERE gym_id = ${p.gym} ORDER BY id`,
    3: async (p) => {
      const found = await sql`SELECT * FROM users WHERE gym_id = ${p.gym} AND role = 'STUDENT' ORDER BY id LIMIT 100`;
      const byUser = new Map(found.map((user) => [user.id, (user.graduations = [])]));
      for (const graduation of await graduationsOf([...byUser.keys()])) byUser.get(graduation.user_id).push(graduation);
      return found;
    },
    4: (p) => sql`
      INSERT INTO checkins (user_id, class_id, date) VALUES (${p.user}, ${p.class}, '2030-01-01') RETURNING *`,
    5: () => sql`INSERT INTO checkins ${sql(ROWS)}`,
    6: (p) => sql`
      SELECT * FROM checkins WHERE user_id = ${p.user} AND date BETWEEN ${"2026-01-01"} AND ${"2026-12-31"}
      ORDER BY date, id LIMIT 50`,
    7: (p) => sql`
      SELECT * FROM notifications WHERE recipients @> ${p.recipients} ORDER BY created_at DESC, id DESC LIMIT 20`,
    8: () => sql`SELECT * FROM users ORDER BY id LIMIT 10000`,
    9: (p) => sql`
      SELECT *, (SELECT coalesce(json_agg(assets), '[]') FROM assets WHERE class_id = class.id) AS assets,
        (SELECT row_to_json(one) FROM (
          SELECT *, (SELECT coalesce(json_agg(graduations), '[]') FROM graduations WHERE user_id = users.id) AS graduations
          FROM users WHERE users.id = class.instructor_id) AS one) AS instructor
      FROM class WHERE gym_id = ${p.gym} ORDER BY id`,
  };
  const entries = Object.entries(jobs).map(([key, run]) => [key, (i) => run(parameters(i))]);
  return { jobs: Object.fromEntries(entries), close: () => sql.end() };
}
