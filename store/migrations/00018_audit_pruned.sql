-- Entries of the audit log of which only the hash is kept. Everything is added: the statements of the release before go on to run, as long as nothing is pruned.

-- +goose Up

-- The leaf hashes of entries 256 × tile and on, one after another: of 256, or of fewer in the last row. These entries have no row in audit_entries.
CREATE TABLE audit_pruned (
    tile   ${ROWNUMBER} PRIMARY KEY,
    hashes BYTEA NOT NULL
);

-- When a sink has said last where it is. NULL: before this was asked for.
ALTER TABLE audit_sinks ADD COLUMN said_at BIGINT;
