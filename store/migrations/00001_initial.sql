-- Times are microseconds since 1970-01-01 UTC, ids are the 16 bytes of a UUID. BYTEA has no meaning of its own in SQLite,
-- which keeps a BLOB as it is given; the words in ${} are what the dialects do not share (see migrations.go).

-- +goose Up

CREATE TABLE keys (
    id              BYTEA PRIMARY KEY,
    tenant          BYTEA NOT NULL,
    name            TEXT ${BYTEWISE} NOT NULL,
    algorithm       TEXT ${BYTEWISE} NOT NULL,
    purpose         TEXT NOT NULL,
    origin          TEXT NOT NULL,
    backend_id      TEXT NOT NULL,
    custody         TEXT NOT NULL,
    labels          TEXT NOT NULL,
    policy          TEXT NOT NULL,
    primary_version BIGINT NOT NULL,
    latest_version  BIGINT NOT NULL,
    min_decrypt     BIGINT NOT NULL,
    min_encrypt     BIGINT NOT NULL,
    uses            BIGINT NOT NULL,
    state           TEXT ${BYTEWISE} NOT NULL,
    created_at      BIGINT NOT NULL,
    updated_at      BIGINT NOT NULL,
    rotated_at      BIGINT,
    deletion_at     BIGINT,
    due_at          BIGINT,
    internal        SMALLINT NOT NULL,
    revision        BIGINT NOT NULL
);

-- The name of a destroyed key is free again.
CREATE UNIQUE INDEX keys_name ON keys (tenant, name) WHERE state <> 'destroyed';
CREATE INDEX keys_algorithm ON keys (tenant, algorithm, name, state) WHERE state <> 'destroyed';
CREATE INDEX keys_state ON keys (tenant, state, name, algorithm);
CREATE INDEX keys_due ON keys (due_at) WHERE due_at IS NOT NULL;

-- What keys.labels says, in the order in which lists ask for it. Written together with it, never read for its own sake.
CREATE TABLE key_labels (
    tenant BYTEA NOT NULL,
    label  TEXT ${BYTEWISE} NOT NULL,
    value  TEXT ${BYTEWISE} NOT NULL,
    name   TEXT ${BYTEWISE} NOT NULL,
    key_id BYTEA NOT NULL,
    PRIMARY KEY (tenant, label, value, name, key_id)
) ${CLUSTERED};
CREATE INDEX key_labels_name ON key_labels (tenant, label, name, key_id);

CREATE TABLE key_versions (
    key_id      BYTEA NOT NULL REFERENCES keys (id),
    version     BIGINT NOT NULL,
    state       TEXT NOT NULL,
    prior_state TEXT NOT NULL,
    origin      TEXT NOT NULL,
    backend_id  TEXT NOT NULL,
    custody     TEXT NOT NULL,
    exportable  SMALLINT NOT NULL,
    created_at  BIGINT NOT NULL,
    state_at    BIGINT NOT NULL,
    revision    BIGINT NOT NULL,
    public      BYTEA,
    material    BYTEA,
    PRIMARY KEY (key_id, version)
);
CREATE INDEX key_versions_creating ON key_versions (state_at, key_id) WHERE state = 'creating';

CREATE TABLE default_keys (
    tenant  BYTEA NOT NULL,
    purpose TEXT NOT NULL,
    key_id  BYTEA NOT NULL REFERENCES keys (id),
    PRIMARY KEY (tenant, purpose)
) ${CLUSTERED};

CREATE TABLE api_keys (
    id         BYTEA PRIMARY KEY,
    tenant     BYTEA NOT NULL,
    name       TEXT NOT NULL,
    brand      TEXT NOT NULL,
    prefix     TEXT NOT NULL,
    mac        BYTEA NOT NULL,
    scopes     TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    revoked_at BIGINT,
    created_by TEXT NOT NULL
);
CREATE UNIQUE INDEX api_keys_prefix ON api_keys (brand, prefix);
CREATE INDEX api_keys_tenant ON api_keys (tenant, id);

CREATE TABLE root_slots (
    id         BYTEA PRIMARY KEY,
    kind       TEXT NOT NULL,
    label      TEXT NOT NULL,
    params     BYTEA NOT NULL,
    sealed     BYTEA NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE idempotency (
    tenant     BYTEA NOT NULL,
    token      TEXT NOT NULL,
    request    BYTEA NOT NULL,
    resource   BYTEA NOT NULL,
    version    BIGINT NOT NULL,
    sealed     BYTEA,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (tenant, token)
);
CREATE INDEX idempotency_created ON idempotency (created_at);

-- The columns before leaf repeat what filters ask for. There is no index but idx: an index by key would touch one page for
-- every entry of a batch, and each touched page is written and synced before a result is released.
CREATE TABLE audit_entries (
    idx       ${ROWNUMBER} PRIMARY KEY,
    at        BIGINT NOT NULL,
    tenant    BYTEA,
    key_id    BYTEA,
    principal TEXT NOT NULL,
    action    TEXT NOT NULL,
    outcome   TEXT NOT NULL,
    leaf      BYTEA NOT NULL
);

CREATE TABLE audit_nodes (
    level SMALLINT NOT NULL,
    idx   BIGINT NOT NULL,
    hash  BYTEA NOT NULL,
    PRIMARY KEY (level, idx)
) ${CLUSTERED};

-- One row: the size of the tree, and the hashes of its compact range one after another.
CREATE TABLE audit_head (
    id     SMALLINT PRIMARY KEY CHECK (id = 1),
    size   BIGINT NOT NULL,
    hashes BYTEA NOT NULL
);
INSERT INTO audit_head (id, size, hashes) VALUES (1, 0, ${EMPTY});

-- One row: the newest signed checkpoint.
CREATE TABLE audit_checkpoint (
    id   SMALLINT PRIMARY KEY CHECK (id = 1),
    size BIGINT NOT NULL,
    note BYTEA NOT NULL
);

-- One row, written when the store is made: who this deployment is, for ever.
CREATE TABLE deployment (
    id   SMALLINT PRIMARY KEY CHECK (id = 1),
    uuid BYTEA NOT NULL
);
