-- Sessions of people and programs that have shown another credential than an API key, and what a tenant has settled for its protection.

-- +goose Up

CREATE TABLE sessions (
    id         BYTEA PRIMARY KEY,
    tenant     BYTEA NOT NULL,
    mac        BYTEA NOT NULL,
    login      BYTEA,
    principal  TEXT ${BYTEWISE} NOT NULL,
    kind       TEXT NOT NULL,
    name       TEXT NOT NULL,
    role       TEXT NOT NULL,
    scopes     TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    seen_at    BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    ended_at   BIGINT
);
CREATE UNIQUE INDEX sessions_mac ON sessions (mac);
CREATE UNIQUE INDEX sessions_login ON sessions (login) WHERE login IS NOT NULL;
CREATE INDEX sessions_tenant ON sessions (tenant, id);
CREATE INDEX sessions_expiry ON sessions (expires_at);

ALTER TABLE tenants ADD COLUMN security TEXT NOT NULL DEFAULT '';
