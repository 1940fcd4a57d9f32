//! The server's own settings and the user's rights, as one row.

use syncline_core::{Finding, Result, Severity};

use crate::postgres::connect::{Session, pooler};
use crate::postgres::{error, quote};

/// The oldest version that is read.
const VERSION_MIN: u32 = 140_000;

/// What the server is and what we may do there.
#[derive(Debug, Clone)]
pub(in crate::postgres::source) struct Server {
    /// `server_version_num`.
    pub(in crate::postgres::source) version: u32,
    in_recovery: bool,
    /// Whether a pooler stands between us and it.
    pooled: bool,
    wal_level: String,
    user: String,
    database: String,
    /// `REPLICATION`, superuser, or the role that a cloud gives instead.
    may_replicate: bool,
    /// `CREATE` on the database, which a publication needs.
    may_create: bool,
    pub(in crate::postgres::source) slots_free: i64,
    walsenders_free: i64,
    /// Whether a slot of some pipeline of ours exists: then no free one may be needed.
    has_own_slots: bool,
    pub(super) sequences: i64,
    pub(super) large_objects: bool,
    pub(super) materialized_views: i64,
}

const SQL: &str = "
    SELECT current_setting('server_version_num')::int, pg_is_in_recovery(), current_setting('wal_level'),
           current_user::text, current_database()::text,
           (SELECT r.rolsuper OR r.rolreplication FROM pg_roles r WHERE r.rolname = current_user)
               OR EXISTS (SELECT FROM pg_roles r WHERE r.rolname IN ('rds_replication', 'cloudsqlsuperuser', 'azure_pg_admin')
                          AND pg_has_role(r.oid, 'USAGE')),
           has_database_privilege(current_database(), 'CREATE'),
           current_setting('max_replication_slots')::int8 - (SELECT count(*) FROM pg_replication_slots),
           current_setting('max_wal_senders')::int8 - (SELECT count(*) FROM pg_stat_replication),
           EXISTS (SELECT FROM pg_replication_slots WHERE slot_name LIKE 'syncline\\_%' AND database = current_database()),
           (SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relkind = 'S' AND n.nspname NOT LIKE 'pg\\_%'),
           EXISTS (SELECT FROM pg_largeobject_metadata),
           (SELECT count(*) FROM pg_class WHERE relkind = 'm')";

impl Server {
    pub(in crate::postgres::source) async fn read(session: &Session) -> Result<Self> {
        let row = session.query_one(SQL, &[]).await;
        let row = row.map_err(|e| error::from_client(e, "reading the server's settings"))?;
        Ok(Self {
            version: row.get::<_, i32>(0).unsigned_abs(),
            in_recovery: row.get(1),
            pooled: session.is_pooled(),
            wal_level: row.get(2),
            user: row.get(3),
            database: row.get(4),
            may_replicate: row.get(5),
            may_create: row.get(6),
            slots_free: row.get(7),
            walsenders_free: row.get(8),
            has_own_slots: row.get(9),
            sequences: row.get(10),
            large_objects: row.get(11),
            materialized_views: row.get(12),
        })
    }

    /// The user, quoted, for statements that mend something.
    pub(super) fn user(&self) -> String {
        quote::ident(&self.user)
    }

    /// What must be so for any reading.
    pub(super) fn findings(&self) -> Vec<Finding> {
        if self.version >= VERSION_MIN {
            return Vec::new();
        }
        vec![error_finding(
            "version",
            format!(
                "the server is version {}, and 14 is the oldest that is supported",
                self.version / 10_000
            ),
            "upgrade the server".to_owned(),
        )]
    }

    /// What must be so for a stream, apart from free slots.
    pub(super) fn stream_findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        if self.pooled {
            findings.push(error_finding(
                "pooler",
                format!("a connection pooler stands before the server: {}", pooler::NO_STREAM),
                pooler::STREAM_REMEDY.to_owned(),
            ));
        }
        if self.in_recovery {
            findings.push(error_finding(
                "recovery",
                "the server is a standby: neither its snapshots nor its log can be used".to_owned(),
                "name the primary in the URL".to_owned(),
            ));
        }
        if self.wal_level != "logical" {
            findings.push(error_finding(
                "wal_level",
                format!("wal_level is {}, and a stream needs logical", self.wal_level),
                "ALTER SYSTEM SET wal_level = 'logical'; then restart the server".to_owned(),
            ));
        }
        if !self.may_replicate {
            findings.push(error_finding(
                "replication_privilege",
                format!("user {} may not replicate", self.user),
                format!("ALTER ROLE {} REPLICATION;", self.user()),
            ));
        }
        if !self.may_create {
            findings.push(error_finding(
                "create_privilege",
                format!("user {} may not create a publication", self.user),
                format!("GRANT CREATE ON DATABASE {} TO {};", quote::ident(&self.database), self.user()),
            ));
        }
        if self.walsenders_free < 1 {
            findings.push(error_finding(
                "wal_senders",
                "all of max_wal_senders are in use, and a stream needs one".to_owned(),
                "ALTER SYSTEM SET max_wal_senders = …; then restart the server".to_owned(),
            ));
        }
        findings
    }

    /// Whether a new slot can be made.
    pub(super) fn slot_finding(&self) -> Option<Finding> {
        let severity = if self.has_own_slots { Severity::Warning } else { Severity::Error };
        (self.slots_free < 1).then(|| Finding { severity, ..no_slot() })
    }
}

/// No slot is free.
pub(in crate::postgres::source) fn no_slot() -> Finding {
    error_finding(
        "replication_slots",
        "all of max_replication_slots are in use, and a new pipeline needs one".to_owned(),
        "ALTER SYSTEM SET max_replication_slots = …; then restart the server; or drop a slot that nobody reads".to_owned(),
    )
}

fn error_finding(code: &'static str, message: String, remedy: String) -> Finding {
    Finding { severity: Severity::Error, code, table: None, message, remedy: Some(remedy) }
}
