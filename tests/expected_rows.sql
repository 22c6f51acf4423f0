-- What the rows of supabase_rows.sql have to be in our schema: written by hand, so that a wrong mapping cannot pass by
-- agreeing with itself.
BEGIN;
SET CONSTRAINTS ALL DEFERRED;
INSERT INTO roles (id, created_at) VALUES
    ('STUDENT', '2024-01-01 03:00:00.000001'), ('INSTRUCTOR', '0001-01-01 00:00:00'),
    ('MANAGER', '9999-12-31 23:59:59.999999');
INSERT INTO versions (id, app_version, created_at, disabled_at) VALUES
    (1, '1.0.0', '2024-03-01 02:30:00', '2024-06-30 00:00:00'), (7, NULL, '2024-03-01 06:30:00', NULL);
INSERT INTO app_stores (id, store, url, created_at, disabled_at) VALUES
    (1, 'ios', 'https://apps.example/a?b=1&c=%20', '2024-01-01 00:00:00', '0001-01-01 00:00:00');
INSERT INTO gyms (id, name, address, manager_id, logo, since, created_at) VALUES
    (1, 'Tatame Centro', E'Rua Direita, 10\nSala 2', 1, '', '2015-03-01', '2024-01-01 00:00:00'),
    (2147483646, 'Academia São João "Velha"', 'null', 2, NULL, '0001-01-01', '2024-01-01 00:00:00.5');
INSERT INTO users (
    id, clerk_user_id, role, gym_id, approved_at, denied_at, email, first_name, last_name, profile_picture, birth,
    birth_day, gender, phone, instagram, expo_push_token, customer_id, subscription_id, plan, migrated_at, deleted_at,
    created_at
) VALUES
    (1, 'user_ana', 'MANAGER', 1, '2024-01-02 00:00:00', '9999-12-31 00:00:00', 'ana@gym.example', 'Ana', E'O''Neill\t',
     E'\\N', '1990-12-31', '12-31', 'F', '+55 11 9', '@ana', 'ExponentPushToken[x]', 'cus_1', 'sub_1', 'gold',
     '2024-05-01 13:00:00.123456', '2024-05-02 00:00:00', '2024-01-01 15:00:00'),
    (2, 'user_bia 🥋', 'STUDENT', NULL, NULL, NULL, '', 'NULL', 'null', E'a\nb\r\nc', '', NULL, NULL, E'\\.', '"', ',',
     '(1,2)', '{}', E'\u200b', NULL, NULL, '2024-01-01 00:00:00'),
    (-5, 'user_negative', NULL, 1, NULL, NULL, NULL, E'e\u0301', 'é', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
     NULL, NULL, NULL, NULL, '1970-01-01 00:00:00');
INSERT INTO graduations (id, belt, degree, user_id, modality, created_at) VALUES
    (1, 'branca', 0, 1, 'jiu-jitsu', '2024-01-01 00:00:00'), (2, NULL, -2147483648, 2, NULL, '2024-01-01 00:00:00');
INSERT INTO class (id, description, start, "end", day, gym_id, created_by, instructor_id, modality, deleted_at, created_at)
VALUES
    (1, 'Fundamentos', '18:30', '24:00', 'MONDAY', 1, 1, 2, 'jiu-jitsu', '2024-07-01 00:00:00', '2024-01-01 00:00:00'),
    (2, NULL, NULL, '00:00', NULL, NULL, NULL, NULL, NULL, NULL, '2024-01-01 00:00:00');
INSERT INTO assets (id, class_id, content, valid_until, type, title, created_at) VALUES
    (1, 1, repeat('ação ', 5000), '2025-01-01 00:00:00', 'video', 'x', '2024-01-01 00:00:00'),
    (2, NULL, NULL, NULL, NULL, NULL, '2024-01-01 00:00:00');
INSERT INTO attachments (id, class_id, file_name, file_url, file_type, file_size, created_at) VALUES
    (1, 1, 'a b.pdf', 'https://files.example/1', 'application/pdf', 2147483647, '2024-01-01 00:00:00');
INSERT INTO checkins (id, user_id, class_id, date, created_at) VALUES
    (1, 1, 1, '2024-02-29', '2024-02-29 23:00:00'), (70000, NULL, NULL, NULL, '2024-01-01 00:00:00');
INSERT INTO notifications (id, recipients, viewed_by, sent_by, title, content, status, channel, sent_at, created_at) VALUES
    (1, ARRAY['1', NULL, 'NULL', '', 'a,b', 'c"d', '{e}', E'f\\g', ' '], '{}', 1, 'Exame', 'x', 'sent', 'push',
     '2024-03-01 00:00:00', '2024-01-01 00:00:00'),
    (2, NULL, ARRAY[ARRAY['1', '2'], ARRAY['3', '4']], NULL, NULL, NULL, NULL, NULL, NULL, '2024-01-01 00:00:00'),
    (3, '[0:1]={a,b}', ARRAY[NULL]::text[], 2, '', '', '', '', '0001-01-01 00:00:00', '2024-01-01 00:00:00');
COMMIT;
