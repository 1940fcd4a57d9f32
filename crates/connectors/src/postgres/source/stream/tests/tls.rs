//! TLS as `sslmode` asks for it. What the modes mean is tested where sessions are connected; here, that this client obeys.

use super::*;

const TABLE: &str = "CREATE TABLE t (k int PRIMARY KEY)";

#[tokio::test]
async fn changes_come_over_tls_with_every_check() {
    let Some(shop) = Shop::open(Postgres::builder().tls().password("secret"), TABLE, &["t"]).await else {
        return;
    };
    shop.run("INSERT INTO t VALUES (1)").await;
    let root = shop.server.certificate();
    let url = shop.server.url(DATABASE);
    for mode in ["require", "prefer", &format!("verify-full&sslrootcert={}", root.display())] {
        let address = Address::parse(&format!("{url}?sslmode={mode}")).unwrap();
        let mut stream = open(&address, &shop.request, &shop.begin, None).await.unwrap();
        assert_eq!(lines(&[next(stream.as_mut()).await.unwrap()]), ["t insert 1"]);
        let over_tls =
            "SELECT count(*) FROM pg_stat_ssl JOIN pg_replication_slots ON pid = active_pid WHERE ssl";
        assert_eq!(shop.text(over_tls).await, "1", "{mode}");
        stream.close().await;
    }
    let unknown = Address::parse(&format!("{url}?sslmode=verify-full")).unwrap();
    let error = open(&unknown, &shop.request, &shop.begin, None).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error:?}");
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_it_is_required_and_taken_where_it_is_preferred() {
    let Some(shop) = Shop::open(Postgres::builder(), TABLE, &["t"]).await else { return };
    let url = shop.server.url(DATABASE);
    let required = Address::parse(&format!("{url}?sslmode=require")).unwrap();
    let error = open(&required, &shop.request, &shop.begin, None).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.remedy().is_some());
    let preferred = Address::parse(&format!("{url}?sslmode=prefer")).unwrap();
    open(&preferred, &shop.request, &shop.begin, None).await.unwrap().close().await;
}

#[tokio::test]
async fn tls_that_fails_is_gone_without_only_where_it_is_preferred() {
    let old = Postgres::builder()
        .tls()
        .setting("ssl_min_protocol_version", "TLSv1")
        .setting("ssl_max_protocol_version", "TLSv1.1");
    let Some(shop) = Shop::open(old, TABLE, &["t"]).await else { return };
    let url = shop.server.url(DATABASE);
    let preferred = Address::parse(&format!("{url}?sslmode=prefer")).unwrap();
    open(&preferred, &shop.request, &shop.begin, None).await.unwrap().close().await;
    let required = Address::parse(&format!("{url}?sslmode=require")).unwrap();
    let error = open(&required, &shop.request, &shop.begin, None).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error:?}");
}
