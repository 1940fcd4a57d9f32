//! Who is let in, and how.

use super::*;

#[tokio::test]
async fn scram_is_spoken_and_a_wrong_password_is_a_configuration_error() {
    let server = Postgres::builder().password("it's secret");
    let Some(shop) = Shop::open(server, "CREATE TABLE t (k int PRIMARY KEY)", &["t"]).await else { return };
    shop.run("INSERT INTO t VALUES (1)").await;
    assert_eq!(shop.read().await, ["t insert 1"]);
    let mut wrong = shop.address();
    wrong.password = Some("wrong".to_owned());
    let error = open(&wrong, &shop.request, &shop.begin, None).await.err().unwrap();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Configuration, Some("28P01")));
    wrong.password = None;
    let error = open(&wrong, &shop.request, &shop.begin, None).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Configuration);
}

#[tokio::test]
async fn the_unix_socket_and_other_authentications() {
    let server = Postgres::builder().password("secret");
    let Some(shop) = Shop::open(server, "CREATE TABLE t (k int PRIMARY KEY)", &["t"]).await else { return };
    shop.run("INSERT INTO t VALUES (1); SET password_encryption = 'md5'; CREATE ROLE hashed LOGIN SUPERUSER PASSWORD 'hash'").await;
    let file = shop.server.data_directory().join("pg_hba.conf");
    std::fs::write(&file, "local all all trust\nhost all hashed all md5\nhost all postgres all password\n")
        .unwrap();
    let socket = Address::parse(&shop.server.socket_url(DATABASE)).unwrap();
    assert!(matches!(socket.host, super::super::super::super::url::Host::Socket { .. }));
    let reload = open(&socket, &shop.request, &shop.begin, None).await.unwrap();
    drop(reload);
    let mut sql = startup::connect(&socket, Purpose::Sql).await.unwrap();
    sql.query("SELECT pg_reload_conf()").await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    for url in [shop.server.url(DATABASE), shop.server.url_as("hashed", "hash", DATABASE)] {
        let address = Address::parse(&url).unwrap();
        let mut stream = open(&address, &shop.request, &shop.begin, None).await.unwrap();
        assert_eq!(lines(&[next(stream.as_mut()).await.unwrap()]), ["t insert 1"]);
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_retriable() {
    let Some(shop) = Shop::open(Postgres::builder(), "CREATE TABLE t (k int PRIMARY KEY)", &["t"]).await
    else {
        return;
    };
    shop.server.stop_fast();
    let error = shop.stream(&shop.begin, None).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Retriable, "{error:?}");
}
