-- A store as the schema 001-runs left it, with an ended, a parked and a held run.
CREATE TABLE "kysely_migration" ("name" varchar(255) not null primary key, "timestamp" varchar(255) not null);
CREATE TABLE "kysely_migration_lock" ("id" varchar(255) not null primary key, "is_locked" integer default 0 not null);
CREATE TABLE "runs" ("id" text primary key, "owner" text not null, "created" bigint not null, "updated" bigint not null, "status" text not null, "request" text not null, "last_event_id" integer not null, "bytes" bigint not null, "lease_holder" text, "lease_until" bigint not null, "idempotency_key" text, "body_hash" text, "share_digest" text);
CREATE TABLE "events" ("run_id" text not null references "runs" ("id") on delete cascade, "id" integer not null, "data" text not null, constraint "events_key" primary key ("run_id", "id"));
CREATE TABLE "labels" ("run_id" text primary key references "runs" ("id") on delete cascade, "data" text not null);
CREATE INDEX "runs_by_owner" on "runs" ("owner", "created", "id");
CREATE INDEX "runs_by_status" on "runs" ("status", "lease_until");
CREATE UNIQUE INDEX "runs_by_share" on "runs" ("share_digest");
CREATE UNIQUE INDEX runs_by_idempotency on runs (owner, idempotency_key) where idempotency_key is not null;
insert into "kysely_migration" (name, timestamp) values ('001-runs', '2026-09-01T00:00:00.000Z');
insert into "kysely_migration_lock" (id, is_locked) values ('migration_lock', 0);
insert into "runs" (id, owner, created, updated, status, request, last_event_id, bytes, lease_holder, lease_until, idempotency_key, body_hash, share_digest) values ('slv_ended', 'key-1', 1790000000000, 1790000009000, 'accepted', '{"id":"x","problem":"What is 2 + 2?"}', 2, 321, null, 0, 'again', 'b0d1', 'd1e2');
insert into "runs" (id, owner, created, updated, status, request, last_event_id, bytes, lease_holder, lease_until, idempotency_key, body_hash, share_digest) values ('slv_parked', 'key-1', 1790000010000, 1790000011000, 'parked', '{"id":"x","problem":"What is 2 + 2?"}', 1, 99, null, 0, null, null, null);
insert into "runs" (id, owner, created, updated, status, request, last_event_id, bytes, lease_holder, lease_until, idempotency_key, body_hash, share_digest) values ('slv_held', 'key-1', 1790000020000, 1790000021000, 'running', '{"id":"x","problem":"What is 2 + 2?"}', 0, 98, 'holder-1', 1790000036000, null, null, null);
insert into "events" (run_id, id, data) values ('slv_ended', 1, '{"type":"attempt-delta","id":1,"solveId":"slv_ended","chain":0,"round":0,"text":"ä€😀"}');
insert into "events" (run_id, id, data) values ('slv_ended', 2, '{"type":"solve-end","id":2,"solveId":"slv_ended","object":"solve","status":"accepted","stopReason":"accepted","solution":"it''s 4 – ✓","answer":"4","score":0.9,"chains":[{"chain":0,"rounds":[]}]}');
insert into "events" (run_id, id, data) values ('slv_parked', 1, '{"type":"attempt-delta","id":1,"solveId":"slv_parked","chain":0,"round":0,"text":"half"}');
insert into "labels" (run_id, data) values ('slv_ended', '{"reference":"2 + 2 = 4","answer":"4"}');
