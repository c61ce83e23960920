-- Requests that take the approval of several, and who said what.

-- +goose Up

CREATE TABLE approvals (
    id           BYTEA PRIMARY KEY,
    tenant       BYTEA NOT NULL,
    key_id       BYTEA NOT NULL,
    operation    TEXT NOT NULL,
    target       TEXT NOT NULL,
    digest       BYTEA NOT NULL,
    reason       TEXT NOT NULL,
    requested_by TEXT NOT NULL,
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT NOT NULL,
    rejected_at  BIGINT,
    used_at      BIGINT
);
CREATE INDEX approvals_tenant ON approvals (tenant, id);

CREATE TABLE approval_votes (
    approval_id BYTEA NOT NULL,
    principal   TEXT ${BYTEWISE} NOT NULL,
    role        TEXT NOT NULL,
    maker       TEXT NOT NULL,
    approves    SMALLINT NOT NULL,
    at          BIGINT NOT NULL,
    PRIMARY KEY (approval_id, principal)
) ${CLUSTERED};
