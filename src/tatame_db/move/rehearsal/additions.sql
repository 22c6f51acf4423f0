-- What a team may have on its target beside the models: a column, a table that refers to users, and a trigger.
ALTER TABLE users ADD COLUMN note text;
UPDATE users SET note = 'ours' WHERE id <= 10;
CREATE TABLE lockers (id integer PRIMARY KEY, user_id integer NOT NULL REFERENCES users ON DELETE CASCADE);
INSERT INTO lockers SELECT id, id FROM users WHERE id <= 10;
CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.last_name := upper(NEW.last_name) || '!';
    RETURN NEW;
END $$;
CREATE TRIGGER shout BEFORE INSERT OR UPDATE ON users FOR EACH ROW EXECUTE FUNCTION shout();
