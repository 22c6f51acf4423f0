-- Rows that are hard to sort, to cut, to filter and to show.
INSERT INTO roles (id) VALUES ('STUDENT'), ('a/b?c=d&e %'), ('');
INSERT INTO gyms (name, address, since) VALUES ('Centro', 'Rua Direita, 10', '2015-03-01'), ('Norte', '', '2019');
INSERT INTO users (clerk_user_id, first_name, last_name, email, gym_id, role, plan, created_at, approved_at)
SELECT 'user_' || lpad(n::text, 3, '0'),
    (ARRAY['Ana', 'ana', 'Bia', NULL, '', 'Água', '100%_\', $$'; DROP TABLE users; --$$])[1 + n % 8],
    CASE WHEN n % 5 > 0 THEN 'Silva' END,
    CASE WHEN n % 3 > 0 THEN 'user' || n || '@gym.example' END,
    CASE n % 4 WHEN 0 THEN NULL WHEN 1 THEN 2 ELSE 1 END,
    CASE WHEN n % 2 = 0 THEN 'STUDENT' END,
    CASE WHEN n % 7 = 0 THEN repeat('plan ', 200) || n % 3 END,
    timestamp '2026-01-01 10:00:00.000001' + (n % 6) * interval '1 microsecond',
    CASE n % 6 WHEN 0 THEN 'infinity' WHEN 1 THEN '-infinity' WHEN 2 THEN '0001-01-01 00:00:00 BC'
        WHEN 3 THEN '2026-02-28 23:59:59.999999' END::timestamp
FROM generate_series(1, 60) AS n;
UPDATE users SET instagram = repeat('é', 1000000), phone = E'line 1\nline\t2\r\n' WHERE id = 1;
INSERT INTO class (gym_id, instructor_id, created_by, day) VALUES (1, 2, 3, 'MONDAY');
INSERT INTO checkins (user_id, class_id, date) SELECT 5, 1, '2026-03-01' FROM generate_series(1, 1005);
INSERT INTO notifications (title, recipients, viewed_by) VALUES
    ('one', '{"1","2"}', '{}'), ('two', '{"2",NULL,"a,\"b\""}', NULL),
    ('three', NULL, '{}'), ('many', (SELECT array_agg(n::text) FROM generate_series(1, 1000) AS n), '{x}');
ANALYZE;
