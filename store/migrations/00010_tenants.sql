-- Tenants with their status and quotas. A store that was made before has one: that of its API keys.

-- +goose Up

CREATE TABLE tenants (
    id           BYTEA PRIMARY KEY,
    name         TEXT ${BYTEWISE} NOT NULL,
    status       TEXT NOT NULL,
    max_keys     BIGINT NOT NULL,
    max_api_keys BIGINT NOT NULL,
    created_at   BIGINT NOT NULL,
    updated_at   BIGINT NOT NULL,
    revision     BIGINT NOT NULL
);
CREATE UNIQUE INDEX tenants_name ON tenants (name);

INSERT INTO tenants (id, name, status, max_keys, max_api_keys, created_at, updated_at, revision)
    SELECT tenant, 'default', 'active', 0, 0, MIN(created_at), MIN(created_at), 1 FROM api_keys GROUP BY tenant;
