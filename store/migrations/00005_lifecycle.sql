-- What each version of a key is counted to have protected, and how much of that makes its key due for rotation.

-- +goose Up

ALTER TABLE key_versions ADD COLUMN messages BIGINT NOT NULL DEFAULT 0;
ALTER TABLE key_versions ADD COLUMN bytes BIGINT NOT NULL DEFAULT 0;

-- NULL: what the service says, as for all keys of the release before.
ALTER TABLE keys ADD COLUMN rotate_messages BIGINT;
ALTER TABLE keys ADD COLUMN rotate_bytes BIGINT;
