-- The table, and a trigger that publishes every new or changed row. A row that is rolled back was never published.

CREATE TABLE IF NOT EXISTS orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    item text NOT NULL,
    status text NOT NULL DEFAULT 'placed'
);

CREATE OR REPLACE FUNCTION publish_order() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM abide.publish('orders', to_json(NEW));
    RETURN NULL;
END
$$;

DROP TRIGGER IF EXISTS publish_order ON orders;
CREATE TRIGGER publish_order AFTER INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION publish_order();
