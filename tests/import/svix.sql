-- The tables of a Svix server, as far as an import reads them: names and types as its version 1.100 has them, written from its
-- documentation of them, without what an import does not look at (foreign keys, most indexes).
CREATE TABLE eventtype (
    id varchar COLLATE "C" PRIMARY KEY, org_id varchar COLLATE "C" NOT NULL, name varchar COLLATE "C" NOT NULL,
    description varchar NOT NULL, deleted boolean NOT NULL, deprecated boolean NOT NULL DEFAULT false,
    schemas json, feature_flag text, created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL,
    UNIQUE (org_id, name)
);
CREATE TABLE application (
    id varchar COLLATE "C" PRIMARY KEY, org_id varchar COLLATE "C" NOT NULL, uid varchar COLLATE "C",
    name varchar NOT NULL, rate_limit integer, deleted boolean NOT NULL,
    created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL
);
CREATE TABLE applicationmetadata (
    id varchar COLLATE "C" PRIMARY KEY, data jsonb NOT NULL,
    created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL
);
CREATE TABLE endpoint (
    id varchar COLLATE "C" PRIMARY KEY, app_id varchar COLLATE "C" NOT NULL, uid varchar COLLATE "C",
    url varchar NOT NULL, description varchar NOT NULL, key bytea NOT NULL, old_keys jsonb,
    event_types_ids jsonb, channels jsonb, headers jsonb, filter text, version integer NOT NULL DEFAULT 1,
    rate_limit integer, deleted boolean NOT NULL, disabled boolean NOT NULL, first_failure_at timestamptz,
    created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL
);
CREATE TABLE endpointmetadata (
    id varchar COLLATE "C" PRIMARY KEY, data jsonb NOT NULL,
    created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL
);
CREATE TABLE message (
    id varchar COLLATE "C" PRIMARY KEY, org_id varchar COLLATE "C" NOT NULL, app_id varchar COLLATE "C" NOT NULL,
    event_type varchar COLLATE "C" NOT NULL, uid varchar COLLATE "C", payload jsonb, channels jsonb,
    expiration timestamptz NOT NULL, created_at timestamptz NOT NULL
);
CREATE TABLE messagecontent (
    id varchar COLLATE "C" PRIMARY KEY, payload bytea NOT NULL, expiration timestamptz NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE TABLE messageattempt (
    id varchar COLLATE "C" PRIMARY KEY, msg_id varchar COLLATE "C" NOT NULL, endp_id varchar COLLATE "C" NOT NULL,
    msg_dest_id varchar COLLATE "C", url varchar NOT NULL, status smallint NOT NULL,
    response_status_code smallint NOT NULL, response text NOT NULL DEFAULT '', ended_at timestamptz,
    trigger_type smallint NOT NULL, attempt_number smallint NOT NULL DEFAULT -1, next_attempt timestamptz,
    response_duration_ms bigint NOT NULL DEFAULT 0, created_at timestamptz NOT NULL
);
CREATE INDEX ON messageattempt (msg_id, id DESC);
