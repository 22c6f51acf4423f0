-- Every kind of obstacle at least once. `fixes.sql` removes those that no choice resolves.
ALTER TABLE app_stores RENAME TO shops;
ALTER TABLE graduations RENAME "userId" TO "studentId";

-- Names that no model is likely to get: a model that has them would know the column and the table.
ALTER TABLE users ADD legacy_nickname text;
UPDATE users SET legacy_nickname = 'Gugu' WHERE id <= 3;
CREATE TABLE legacy_payments (id bigint PRIMARY KEY, paid_at timestamptz, amount numeric(10, 2));
INSERT INTO legacy_payments SELECT n, now(), 99.90 FROM generate_series(1, 5) AS n;

ALTER TABLE users ALTER clerk_user_id DROP NOT NULL;
-- A user without a `clerk_user_id`, whose graduation is an orphan without it, and two users with the same one.
INSERT INTO users (id, clerk_user_id) VALUES (2000000001, NULL), (2000000002, 'user_twice'), (2000000003, 'user_twice');
INSERT INTO graduations (belt, "studentId") VALUES ('WHITE', 2000000001);
ALTER TABLE checkins DROP CONSTRAINT "checkins_userId_fkey";
INSERT INTO checkins (id, "userId", date) VALUES
    (2000000001, 2100000000, '2024-02-29'), (2000000002, 1, 'infinity'), (2147483647, 1, NULL), (2147483648, 1, NULL);
INSERT INTO class (description, start) VALUES ('Com segundos', '18:30:45');
INSERT INTO assets (type) VALUES (repeat('ç', 3000));
