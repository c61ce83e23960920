-- What the nodes on one store tell each other.

-- +goose Up

-- What an entry of the audit log has changed, in the order of the log. Written in the transaction of the entry; kept for some days.
CREATE TABLE news (
    idx    BIGINT NOT NULL,
    pos    BIGINT NOT NULL,
    at     BIGINT NOT NULL,
    tenant BYTEA,
    kind   TEXT NOT NULL,
    id     BYTEA,
    PRIMARY KEY (idx, pos)
) ${CLUSTERED};

-- One row: below this index news have been pruned, or were never written.
CREATE TABLE news_floor (
    id  SMALLINT PRIMARY KEY CHECK (id = 1),
    idx BIGINT NOT NULL
);
INSERT INTO news_floor (id, idx) SELECT 1, size FROM audit_head;

CREATE TABLE leases (
    name   TEXT ${BYTEWISE} PRIMARY KEY,
    holder BYTEA NOT NULL,
    term   BIGINT NOT NULL,
    until  BIGINT NOT NULL
);

CREATE TABLE nodes (
    id         BYTEA PRIMARY KEY,
    name       TEXT ${BYTEWISE} NOT NULL,
    address    TEXT NOT NULL,
    version    TEXT NOT NULL,
    backends   TEXT NOT NULL,
    started_at BIGINT NOT NULL,
    seen_at    BIGINT NOT NULL
);
