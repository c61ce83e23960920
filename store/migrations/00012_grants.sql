-- Rights of single principals to single keys.

-- +goose Up

CREATE TABLE grants (
    id         BYTEA PRIMARY KEY,
    tenant     BYTEA NOT NULL,
    key_id     BYTEA NOT NULL,
    principal  TEXT ${BYTEWISE} NOT NULL,
    operations TEXT NOT NULL,
    context    TEXT NOT NULL,
    expires_at BIGINT,
    created_at BIGINT NOT NULL,
    created_by TEXT NOT NULL
);
CREATE INDEX grants_key ON grants (tenant, key_id, id);
CREATE INDEX grants_principal ON grants (tenant, principal, id);
