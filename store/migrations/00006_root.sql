-- Generations of the root, and the keyring. A root that was never replaced is the first generation; so are all slots that were there.

-- +goose Up

ALTER TABLE root_slots ADD COLUMN generation BIGINT NOT NULL DEFAULT 1;

-- One row: the newest generation. Slots of another open nothing.
CREATE TABLE root_state (
    id         SMALLINT PRIMARY KEY CHECK (id = 1),
    generation BIGINT NOT NULL
);
INSERT INTO root_state (id, generation) VALUES (1, 1);

-- What is sealed under a root: earlier roots, keys that outlive theirs, and the way forward for nodes that run.
CREATE TABLE root_keyring (
    kind       TEXT ${BYTEWISE} NOT NULL,
    generation BIGINT NOT NULL,
    label      TEXT ${BYTEWISE} NOT NULL,
    under      BIGINT NOT NULL,
    sealed     BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (kind, generation, label)
) ${CLUSTERED};
