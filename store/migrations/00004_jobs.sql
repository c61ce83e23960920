-- Work that outlives the request that asked for it.

-- +goose Up

-- The tenant of what belongs to none is sixteen zero bytes. What has not ended has no ended_at.
CREATE TABLE jobs (
    id         BYTEA PRIMARY KEY,
    tenant     BYTEA NOT NULL,
    kind       TEXT NOT NULL,
    state      TEXT NOT NULL,
    params     TEXT NOT NULL,
    resume     BYTEA,
    done       BIGINT NOT NULL,
    failed     BIGINT NOT NULL,
    total      BIGINT NOT NULL,
    notices    TEXT NOT NULL,
    error      TEXT NOT NULL,
    message    TEXT NOT NULL,
    attempts   BIGINT NOT NULL,
    retry_at   BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    started_at BIGINT,
    updated_at BIGINT NOT NULL,
    ended_at   BIGINT,
    node       BYTEA,
    revision   BIGINT NOT NULL
);
CREATE INDEX jobs_tenant ON jobs (tenant, id);
CREATE INDEX jobs_open ON jobs (tenant, id) WHERE ended_at IS NULL;
CREATE INDEX jobs_ended ON jobs (ended_at) WHERE ended_at IS NOT NULL;
