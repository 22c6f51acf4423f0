-- Lifelike rows in the numbers that the parameters state, and values that break careless copies but can be stored.
-- Foreign keys are not checked while these rows are inserted, because every reference is valid by construction.
SET session_replication_role = replica;
SET TimeZone = 'America/Sao_Paulo';

INSERT INTO roles (id, created_at)
SELECT unnest('{STUDENT,INSTRUCTOR,MANAGER}'::text[]), '2022-01-10 09:00:00.000001';

-- With the lowest id, and with the highest that another one can follow; the app does not insert into this table all day.
INSERT INTO versions (id, created_at, "appVersion", disabled_at)
SELECT CASE n WHEN 5 THEN -2147483648 WHEN 6 THEN 2147483646 ELSE n END, timestamptz '2022-02-01 12:00' + n * interval '97 days', '1.' || n || '.0', CASE WHEN n < 5 THEN date '2024-01-01' + n END
FROM generate_series(1, 6) AS n;

INSERT INTO app_stores (store, url)
SELECT store, 'https://apps.example/tatame/' || store FROM unnest('{ios,android,huawei}'::text[]) AS store;

INSERT INTO gyms (created_at, name, address, "managerId", logo, since)
SELECT timestamptz '2022-03-01 08:00' + n * interval '7 hours',
    (ARRAY['Academia São João', 'Tatame Centro', 'Arte Suave', 'Dojô Ipê-Amarelo', 'Leão da Montanha'])[1 + n %% 5] || ' ' || n,
    'Rua das Acácias, ' || n || ', ' || (ARRAY['São Paulo', 'Florianópolis', 'Belém', 'Maceió'])[1 + n %% 4],
    n, CASE WHEN n %% 3 > 0 THEN 'https://files.example/logos/' || n || '.png' END, date '2010-01-01' + n %% 4000
FROM generate_series(1, %(gyms)s) AS n;

INSERT INTO users (created_at, clerk_user_id, role, gym_id, approved_at, denied_at, email, first_name, last_name,
    profile_picture, birth, birth_day, gender, phone, instagram, expo_push_token, customer_id, plan, migrated_at)
SELECT timestamptz '2022-03-02 10:15:30.123456' + n * interval '1 minute 1 second', 'user_' || md5(n::text),
    CASE WHEN n <= %(gyms)s THEN 'MANAGER' WHEN n <= 4 * %(gyms)s THEN 'INSTRUCTOR' ELSE 'STUDENT' END,
    1 + (n - 1) %% %(gyms)s, CASE WHEN n %% 10 < 8 THEN date '2022-03-03' + (n %% 900)::integer END,
    CASE WHEN n %% 10 = 8 THEN date '2022-03-04' + (n %% 900)::integer END, 'aluno' || n || '@mail.example', first, last,
    CASE WHEN n %% 4 = 0 THEN 'https://img.example/' || md5(n::text) END, born::text, to_char(born, 'MM-DD'),
    (ARRAY['F', 'M', NULL])[1 + n %% 3], '+55 11 9' || 10000000 + n, CASE WHEN n %% 5 = 0 THEN '@' || lower(first) || n END,
    CASE WHEN n %% 3 = 0 THEN 'ExponentPushToken[' || left(md5(n::text), 22) || ']' END,
    CASE WHEN n %% 6 = 0 THEN 'cus_' || left(md5(n::text), 14) END, CASE WHEN n %% 6 = 0 THEN 'mensal' END,
    CASE WHEN n %% 7 = 0 THEN timestamptz '2024-05-01 00:00' + n * interval '1 second' END
FROM generate_series(1, %(users)s) AS n,
    LATERAL (SELECT
        (ARRAY['Ana', 'João', 'Conceição', 'Antônio', 'Beatriz', 'Luís', 'Íris', 'Zé', 'Yasmin', 'Cauã', 'Inês'])[1 + n %% 11],
        (ARRAY['Silva', 'Araújo', 'Gonçalves', 'D''Ávila', 'Moura', 'Simões', 'Leão'])[1 + n %% 7],
        date '1955-01-01' + (n * 37 %% 23000)::integer) AS person (first, last, born);

INSERT INTO graduations (created_at, belt, degree, "userId", modality)
SELECT timestamptz '2022-04-01 19:30' + n * interval '3 minutes',
    (ARRAY['WHITE', 'BLUE', 'PURPLE', 'BROWN', 'BLACK'])[1 + n %% 5], n %% 5, 1 + n %% %(users)s,
    (ARRAY['BJJ', 'Judô', 'Karatê'])[1 + n %% 3]
FROM generate_series(1, 2 * %(users)s) AS n;

INSERT INTO class (created_at, description, start, "end", day, gym_id, created_by, instructor_id, modality, deleted_at)
SELECT timestamptz '2022-03-05 09:00' + n * interval '11 minutes', (ARRAY['Fundamentos', 'Avançado', 'Crianças', NULL])[1 + n %% 4],
    time '06:00' + (n %% 28) * interval '30 minutes', time '07:00' + (n %% 28) * interval '30 minutes',
    (ARRAY['MONDAY', 'TUESDAY', 'WEDNESDAY', 'THURSDAY', 'FRIDAY', 'SATURDAY'])[1 + n %% 6], gym, gym,
    %(gyms)s + gym, 'BJJ', CASE WHEN n %% 40 = 0 THEN date '2024-06-30' END
FROM generate_series(1, %(classes)s) AS n, LATERAL (SELECT 1 + (n - 1) %% %(gyms)s) AS its (gym);

INSERT INTO assets (created_at, class_id, content, valid_until, type, title)
SELECT timestamptz '2023-01-01 10:00' + n * interval '13 minutes', n, 'https://video.example/' || md5(n::text),
    CASE WHEN n %% 2 = 0 THEN date '2026-12-31' END, (ARRAY['video', 'text', 'image'])[1 + n %% 3], 'Passagem de guarda nº ' || n
FROM generate_series(1, %(classes)s) AS n;

INSERT INTO attachments (created_at, class_id, file_name, file_url, file_type, file_size)
SELECT timestamptz '2023-02-01 10:00' + n * interval '17 minutes', n, 'horários ' || n || '.pdf',
    'https://files.example/' || md5(n::text), 'application/pdf', 1000 + n * 977
FROM generate_series(1, %(classes)s) AS n;

INSERT INTO notifications (created_at, recipients, viewed_by, sent_by, title, content, status, channel, sent_at)
SELECT timestamptz '2023-03-01 18:00' + n * interval '19 minutes',
    ARRAY(SELECT (1 + (n * 7 + k) %% %(users)s)::text FROM generate_series(0, n %% 4) AS k),
    CASE WHEN n %% 3 > 0 THEN ARRAY[(1 + n * 7 %% %(users)s)::text] END, 1 + n %% %(gyms)s, 'Exame de faixa',
    'Olá! O exame é no sábado, às 10h.', (ARRAY['sent', 'pending', 'failed'])[1 + n %% 3], 'push', date '2023-03-01' + (n %% 700)::integer
FROM generate_series(1, %(notifications)s) AS n;

INSERT INTO checkins (created_at, "userId", "classId", date)
SELECT timestamptz '2023-01-02 06:00' + n * interval '29 seconds', 1 + n * 7919 %% %(users)s, 1 + n * 104729 %% %(classes)s,
    (timestamptz '2023-01-02 06:00' + n * interval '29 seconds')::date
FROM generate_series(1::bigint, %(checkins)s) AS n;

INSERT INTO users (clerk_user_id, role, email, first_name, last_name, profile_picture, birth, plan, migrated_at) VALUES
    ('user_ação 🥋', NULL, '', 'NULL', 'null', E'\\N', E'a\tb\r\nc', e'e\u0301', '0001-01-01 00:00:00+00'),
    (' ', 'STUDENT', NULL, '"', E'\\.', ',', '(1,2)', E'\u200b', '9999-12-31 23:59:59.999999+00');
INSERT INTO notifications (recipients, viewed_by, content, sent_at) VALUES
    (ARRAY['1', NULL, 'NULL', '', 'a,b', 'c"d', '{e}', E'f\\g', ' '], '{}', repeat('ação ', 50000), '0001-01-01'),
    ('[0:1]={a,b}', ARRAY[ARRAY['1', NULL], ARRAY['', '4']], NULL, '9999-12-31');
INSERT INTO checkins (date) VALUES ('0001-01-01'), ('9999-12-31');

-- As autovacuum does in a project that has been in use for some time.
ANALYZE;
