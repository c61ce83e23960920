-- One row: the newest checkpoint of the audit log that witnesses have cosigned.

-- +goose Up

CREATE TABLE audit_cosigned (
    id   SMALLINT PRIMARY KEY CHECK (id = 1),
    size BIGINT NOT NULL,
    note BYTEA NOT NULL
);
