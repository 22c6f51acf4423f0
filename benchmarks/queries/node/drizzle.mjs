// The eight jobs as Drizzle's users write them; `prepared` as its documentation advises for speed.
import pg from "pg";
import { and, arrayContains, asc, between, desc, eq, relations, sql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/node-postgres";
import { integer, pgTable, serial, text, timestamp } from "drizzle-orm/pg-core";
import { ROWS, parameters } from "./numbers.mjs";

const users = pgTable("users", {
  id: serial("id").primaryKey(),
  clerkUserId: text("clerk_user_id").notNull(),
  email: text("email"),
  firstName: text("first_name"),
  lastName: text("last_name"),
  profilePicture: text("profile_picture"),
  birth: text("birth"),
  birthDay: text("birth_day"),
  gender: text("gender"),
  phone: text("phone"),
  instagram: text("instagram"),
  role: text("role"),
  gymId: integer("gym_id"),
  expoPushToken: text("expo_push_token"),
  customerId: text("customer_id"),
  subscriptionId: text("subscription_id"),
  plan: text("plan"),
  approvedAt: timestamp("approved_at"),
  deniedAt: timestamp("denied_at"),
  migratedAt: timestamp("migrated_at"),
  deletedAt: timestamp("deleted_at"),
  createdAt: timestamp("created_at").notNull().defaultNow(),
});
const gyms = pgTable("gyms", {
  id: serial("id").primaryKey(),
  name: text("name").notNull(),
  address: text("address").notNull(),
  logo: text("logo"),
  managerId: integer("manager_id"),
  since: text("since").notNull(),
  createdAt: timestamp("created_at").notNull().defaultNow(),
});
const graduations = pgTable("graduations", {
  id: serial("id").primaryKey(),
  userId: integer("user_id").notNull(),
  belt: text("belt"),
  degree: integer("degree"),
  modality: text("modality"),
  createdAt: timestamp("created_at").notNull().defaultNow(),
});
const classTable = pgTable("class", {
  id: serial("id").primaryKey(),
  gymId: integer("gym_id"),
  instructorId: integer("instructor_id"),
  createdBy: integer("created_by"),
  day: text("day"),
  start: text("start"),
  end: text("end"),
  modality: text("modality"),
  description: text("description"),
  createdAt: timestamp("created_at").notNull().defaultNow(),
  deletedAt: timestamp("deleted_at"),
});
const assets = pgTable("assets", {
  id: serial("id").primaryKey(),
  classId: integer("class_id"),
  title: text("title"),
  content: text("content"),
  type: text("type"),
  validUntil: timestamp("valid_until"),
  createdAt: timestamp("created_at").notNull().defaultNow(),
});
const checkins = pgTable("checkins", {
  id: serial("id").primaryKey(),
  userId: integer("user_id"),
  classId: integer("class_id"),
  date: text("date"),
  createdAt: timestamp("created_at").notNull().defaultNow(),
});
const notifications = pgTable("notifications", {
  id: serial("id").primaryKey(),
  sentBy: integer("sent_by"),
  title: text("title"),
  content: text("content"),
  channel: text("channel"),
  status: text("status"),
  recipients: text("recipients").array(),
  viewedBy: text("viewed_by").array(),
  sentAt: timestamp("sent_at"),
  createdAt: timestamp("created_at").notNull().defaultNow(),
});
const schema = {
  users, gyms, graduations, classTable, assets, checkins, notifications,
  usersRelations: relations(users, ({ one, many }) => ({
    gym: one(gyms, { fields: [users.gymId], references: [gyms.id] }),
    graduations: many(graduations),
  })),
  graduationsRelations: relations(graduations, ({ one }) => ({
    user: one(users, { fields: [graduations.userId], references: [users.id] }),
  })),
  classRelations: relations(classTable, ({ one, many }) => ({
    gym: one(gyms, { fields: [classTable.gymId], references: [gyms.id] }),
    instructor: one(users, { fields: [classTable.instructorId], references: [users.id] }),
    assets: many(assets),
  })),
  assetsRelations: relations(assets, ({ one }) => ({
    class: one(classTable, { fields: [assets.classId], references: [classTable.id] }),
  })),
};

const $ = sql.placeholder;

const describe = (db) => ({
  1: (p) => db.query.users.findFirst({ where: eq(users.clerkUserId, p.clerk), with: { gym: true, graduations: true } }),
  2: (p) => db.query.classTable.findMany({
    where: eq(classTable.gymId, p.gym), orderBy: asc(classTable.id), with: { gym: true, instructor: true, assets: true },
  }),
  3: (p) => db.query.users.findMany({
    where: and(eq(users.gymId, p.gym), eq(users.role, "STUDENT")), orderBy: asc(users.id), limit: 100,
    with: { graduations: true },
  }),
  4: (p) => db.insert(checkins).values({ userId: p.user, classId: p.class, date: "2030-01-01" }).returning(),
  5: () => db.insert(checkins).values(ROWS.map((row) => ({ userId: row.user_id, classId: row.class_id, date: row.date }))),
  6: (p) => db.select().from(checkins)
    .where(and(eq(checkins.userId, p.user), between(checkins.date, "2026-01-01", "2026-12-31")))
    .orderBy(asc(checkins.date), asc(checkins.id)).limit(50),
  7: (p) => db.select().from(notifications)
    .where(arrayContains(notifications.recipients, p.recipients))
    .orderBy(desc(notifications.createdAt), desc(notifications.id)).limit(20),
  8: () => db.select().from(users).orderBy(asc(users.id)).limit(10000),
  9: (p) => db.query.classTable.findMany({
    where: eq(classTable.gymId, p.gym), orderBy: asc(classTable.id),
    with: { assets: true, instructor: { with: { graduations: true } } },
  }),
});

// A prepared statement takes its values by name; 1,000 rows have no prepared form worth having, and stay as they are.
function prepared(db, number, plain) {
  if (number === 5) return plain;
  const names = { user: $("user"), clerk: $("clerk"), gym: $("gym"), class: $("class"), recipients: $("recipients") };
  const described = number === 7
    ? db.select().from(notifications)
      .where(sql`${notifications.recipients} @> ${$("recipients")}`)
      .orderBy(desc(notifications.createdAt), desc(notifications.id)).limit(20)
    : describe(db)[number](names);
  const statement = described.prepare(`job_${number}`);
  return (p) => statement.execute({ ...p });
}

export function open(way, socket, database) {
  const pool = new pg.Pool({ host: socket, database, user: "postgres", max: 20 });
  const db = drizzle(pool, { schema });
  const jobs = Object.entries(describe(db)).map(([key, plain]) => {
    const run = way === "drizzle" ? plain : prepared(db, Number(key), plain);
    return [key, (i) => run(parameters(i))];
  });
  return { jobs: Object.fromEntries(jobs), close: () => pool.end() };
}
