use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn names_are_strict() {
    let longest = "x".repeat(LONGEST);
    for word in ["web", "a", "7", "db-1", "my_vm.old", longest.as_str()] {
        assert_eq!(word.parse::<Name>().unwrap().as_str(), word);
    }
    let longer = "x".repeat(LONGEST + 1);
    for word in ["", ".", "..", ".a", "-a", "_a", "a/b", "a b", "ü", "a\n", longer.as_str()] {
        assert!(word.parse::<Name>().is_err(), "{word}");
        assert!(serde_json::from_value::<Name>(word.into()).is_err(), "{word}");
    }
}

#[test]
fn the_folder_is_the_users() {
    let run = Some(OsStr::new("/run/user/7"));
    let of = |variable, user| place(variable, user, |_| Some(7));
    assert_eq!(of(run, 7), Path::new("/run/user/7/bantam"));
    assert_eq!(of(run, 0), Path::new("/run/bantam"));
    assert_eq!(of(run, 8), Path::new("/tmp/bantam-8"));
    assert_eq!(of(Some(OsStr::new("run/user/7")), 7), Path::new("/tmp/bantam-7"));
    assert_eq!(of(Some(OsStr::new("")), 7), Path::new("/tmp/bantam-7"));
    assert_eq!(of(None, 0), Path::new("/run/bantam"));
    assert_eq!(place(run, 7, |_| None), Path::new("/tmp/bantam-7"));
}

#[test]
fn a_folder_that_others_can_enter_is_refused() {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("bantam");
    let check = || Folder(path.clone()).check();
    assert!(matches!(check(), Err(Error::Folder { .. })));
    DirBuilder::new().mode(0o700).create(&path).unwrap();
    check().unwrap();
    for mode in [0o710, 0o701, 0o755] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        assert!(matches!(check(), Err(Error::NotPrivate(_))), "{mode:o}");
    }
    fs::remove_dir(&path).unwrap();
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    assert!(matches!(check(), Err(Error::NotPrivate(_))));
    fs::remove_file(&path).unwrap();
    // A link is whoever's made it.
    std::os::unix::fs::symlink(temporary.path(), &path).unwrap();
    assert!(matches!(check(), Err(Error::NotPrivate(_))));
}

#[test]
fn a_name_is_taken_once_and_listed_in_order() {
    let temporary = tempfile::tempdir().unwrap();
    let folder = Folder(temporary.path().to_owned());
    let [web, db] = ["web", "db"].map(|name| name.parse::<Name>().unwrap());
    let server = folder.listen(&web).unwrap();
    let _other = folder.listen(&db).unwrap();
    for file in ["notes", ".sock", "a b.sock", "x.socket"] {
        fs::write(temporary.path().join(file), "").unwrap();
    }
    assert_eq!(folder.names().unwrap(), [db, web.clone()]);
    let error = folder.listen(&web).err().unwrap();
    assert!(error.to_string().starts_with("a machine named 'web' runs already"), "{error}");
    drop(server);
    assert_eq!(folder.names().unwrap().len(), 1);
    folder.listen(&web).unwrap();
}
