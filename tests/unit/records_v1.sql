BEGIN TRANSACTION;
CREATE TABLE bodies (
	"key" INTEGER NOT NULL, 
	request BLOB, 
	response BLOB, 
	PRIMARY KEY ("key")
);
CREATE TABLE labels (
	path TEXT NOT NULL, 
	value TEXT NOT NULL, 
	"key" BIGINT NOT NULL, 
	PRIMARY KEY (path, value, "key")
)
 WITHOUT ROWID

;
CREATE TABLE marks (
	id INTEGER NOT NULL, 
	kind TEXT NOT NULL, 
	path TEXT NOT NULL, 
	value TEXT NOT NULL, 
	queue TEXT NOT NULL, 
	sent_ms BIGINT NOT NULL, 
	drained_ms BIGINT, 
	PRIMARY KEY (id)
);
CREATE TABLE records (
	"key" INTEGER NOT NULL, 
	serving BIGINT, 
	request_id TEXT NOT NULL, 
	body_hash BIGINT NOT NULL, 
	state TEXT NOT NULL, 
	action TEXT, 
	source_root TEXT, 
	source_key TEXT, 
	target_root TEXT, 
	target_key TEXT, 
	label TEXT, 
	attempts INTEGER NOT NULL, 
	instance TEXT, 
	service TEXT, 
	host TEXT, 
	queue TEXT, 
	submitted_ms BIGINT, 
	received_ms BIGINT, 
	started_ms BIGINT, 
	finished_ms BIGINT, 
	bytes BIGINT, 
	files BIGINT, 
	rclone_status INTEGER, 
	message TEXT, 
	reason TEXT, 
	verified TEXT, 
	retry_of BIGINT, 
	PRIMARY KEY ("key")
);
CREATE TABLE samples (
	minute BIGINT NOT NULL, 
	service TEXT NOT NULL, 
	in_flight INTEGER NOT NULL, 
	in_flight_limit INTEGER NOT NULL, 
	queue_length BIGINT, 
	PRIMARY KEY (minute, service)
)
 WITHOUT ROWID

;
CREATE TABLE schema_version (
	version INTEGER NOT NULL
);
INSERT INTO "schema_version" VALUES(1);
CREATE TABLE services (
	instance TEXT NOT NULL, 
	name TEXT NOT NULL, 
	host TEXT NOT NULL, 
	pid INTEGER NOT NULL, 
	queue TEXT NOT NULL, 
	started_ms BIGINT NOT NULL, 
	beat BIGINT NOT NULL, 
	beat_ms BIGINT NOT NULL, 
	status TEXT NOT NULL, 
	PRIMARY KEY (instance)
);
CREATE TABLE spools (
	owner TEXT NOT NULL, 
	file TEXT NOT NULL, 
	position BIGINT NOT NULL, 
	PRIMARY KEY (owner, file)
);
CREATE TABLE totals (
	minute BIGINT NOT NULL, 
	state TEXT NOT NULL, 
	requests BIGINT NOT NULL, 
	files BIGINT NOT NULL, 
	bytes BIGINT NOT NULL, 
	PRIMARY KEY (minute, state)
)
 WITHOUT ROWID

;
CREATE INDEX labels_key ON labels ("key");
CREATE INDEX records_action ON records (action, "key");
CREATE INDEX records_open ON records (request_id) WHERE state IN ('waiting', 'running');
CREATE INDEX records_open_body ON records (body_hash) WHERE state IN ('waiting', 'running');
CREATE INDEX records_request_id ON records (request_id);
CREATE INDEX records_retry_of ON records (retry_of) WHERE retry_of IS NOT NULL;
CREATE INDEX records_serving ON records (serving) WHERE state IN ('waiting', 'running');
CREATE INDEX records_source_root ON records (source_root, "key");
CREATE INDEX records_state ON records (state, "key", reason);
CREATE INDEX records_target_root ON records (target_root, "key");
INSERT INTO "records" VALUES(3765847416295695520,3765847416295695520,'id-1',7423999671090205731,'succeeded','copyto','src','f1','dst','f1','{"ticket":"1"}',1,'service-1','copier','here','embedded',NULL,1795695980213,1795695980214,1795695980242,2,1,0,NULL,NULL,NULL,NULL);
INSERT INTO "records" VALUES(3765847416295695521,3765847416295695521,'archive:id-2',7423999671090205731,'succeeded','copyto','src','f1','dst','f1','{"ticket":"1"}',1,'service-1','copier','here','embedded',NULL,1795695980213,1795695980214,1795695980242,2,1,0,NULL,NULL,NULL,NULL);
COMMIT;
PRAGMA application_id = 1397838674;
