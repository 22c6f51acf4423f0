-- What no move brings: the parts of the service that a project uses, and objects beside its tables. Supabase's own are
-- reduced to what is read of them.
CREATE SCHEMA auth;
CREATE TABLE auth.users (id uuid PRIMARY KEY, email text);
INSERT INTO auth.users SELECT md5(n::text)::uuid, 'aluno' || n || '@mail.example' FROM generate_series(1, 12) AS n;
CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS 'SELECT NULL::uuid';
CREATE SCHEMA storage;
CREATE TABLE storage.buckets (id text PRIMARY KEY, public boolean);
CREATE TABLE storage.objects (id bigint PRIMARY KEY, bucket_id text REFERENCES storage.buckets, name text, metadata jsonb);
CREATE FUNCTION storage.set_size() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER set_size BEFORE INSERT ON storage.objects FOR EACH ROW EXECUTE FUNCTION storage.set_size();
ALTER TABLE storage.objects ENABLE ROW LEVEL SECURITY;
INSERT INTO storage.buckets VALUES ('logos', true), ('documents', false), ('empty', false);
INSERT INTO storage.objects VALUES
    (1, 'logos', '1.png', '{"size": 20480}'), (2, 'logos', '2.png', '{"size": "1024"}'), (3, 'logos', '3.png', NULL),
    (4, 'documents', 'rules.pdf', '{"size": 1048576}'), (5, 'documents', 'x', '{"size": "a lot"}');
CREATE SCHEMA vault;
CREATE TABLE vault.secrets (id bigint PRIMARY KEY, secret text);
INSERT INTO vault.secrets VALUES (1, 'a secret');
CREATE SCHEMA cron;
CREATE TABLE cron.job (
    jobid bigint PRIMARY KEY, schedule text, command text, nodename text, database text, username text, jobname text
);
INSERT INTO cron.job VALUES
    (1, '0 3 * * *', 'SELECT 1', 'localhost', current_database(), 'postgres', 'nightly'),
    (2, '* * * * *', 'SELECT 1', 'localhost', current_database(), 'postgres', NULL),
    (3, '* * * * *', 'SELECT 1', 'localhost', 'another', 'postgres', 'another');
CREATE PUBLICATION supabase_realtime FOR TABLE notifications;

-- From here on, the team's.
CREATE SCHEMA private;
CREATE TABLE private.devices (id bigserial PRIMARY KEY, account uuid REFERENCES auth.users, token text);
INSERT INTO private.devices (token) VALUES ('https://abcdefghijklmnopqrst.supabase.co/functions/v1/push');
CREATE TYPE private.color AS ENUM ('white', 'blue');
CREATE SEQUENCE private.invoice_numbers;
CREATE VIEW accounts AS SELECT id, email FROM auth.users;
CREATE MATERIALIZED VIEW checkins_by_day AS SELECT date, count(*) FROM checkins GROUP BY date;
CREATE FUNCTION add_user() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE FUNCTION log_schema_change() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE FUNCTION is_manager(id bigint) RETURNS boolean LANGUAGE sql STABLE AS 'SELECT true';
CREATE PROCEDURE close_month(month date) LANGUAGE sql AS 'SELECT 1';
CREATE AGGREGATE longest(text) (SFUNC = textcat, STYPE = text);
CREATE TRIGGER add_user AFTER INSERT ON auth.users FOR EACH ROW EXECUTE FUNCTION add_user();
CREATE TRIGGER touch BEFORE UPDATE ON gyms FOR EACH ROW EXECUTE FUNCTION add_user();
CREATE RULE no_delete AS ON DELETE TO private.devices DO INSTEAD NOTHING;
CREATE EVENT TRIGGER log_schema_change ON ddl_command_end EXECUTE FUNCTION log_schema_change();
CREATE POLICY managers ON storage.objects FOR SELECT USING (public.is_manager(id));
CREATE PUBLICATION warehouse FOR TABLE checkins, users;
CREATE FOREIGN DATA WRAPPER partner;
CREATE SERVER partner FOREIGN DATA WRAPPER partner;
UPDATE gyms SET logo = 'https://abcdefghijklmnopqrst.supabase.co/storage/v1/object/public/logos/1.png' WHERE id = 1;
UPDATE users SET profile_picture = 'https://abcdefghijklmnopqrst.supabase.co/storage/v1/object/sign/' || id WHERE id <= 3;
