-- A day of the app: rows are added, changed and deleted, and two users swap their accounts.
INSERT INTO checkins ("userId", "classId", date) SELECT 1 + n %% %(users)s, 1 + n %% %(classes)s, '2026-03-02'
FROM generate_series(1, %(checkins)s / 100) AS n;
UPDATE checkins SET date = date - 1 WHERE id BETWEEN 301 AND 350;
DELETE FROM checkins WHERE id BETWEEN 101 AND 150;
UPDATE users SET phone = NULL, deleted_at = now() WHERE id %% 50 = 9;
UPDATE users SET clerk_user_id = (SELECT other.clerk_user_id FROM users AS other WHERE other.id = 11 - users.id)
WHERE id IN (5, 6);
DELETE FROM notifications WHERE id <= 3;
