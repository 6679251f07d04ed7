<?php
// /srv/blog/etc/config-default.php, which the package's wp-config.php includes.

// By /run/mysqld/mysqld.sock. MariaDB's unix_socket plugin asks the kernel which
// account is at the other end: the pool's `user`.
define('DB_HOST', 'localhost');
define('DB_NAME', 'blog');
define('DB_USER', 'games');
define('DB_PASSWORD', '');
define('DB_CHARSET', 'utf8mb4');

// The pool has no network: neither wordpress.org nor the site's own address is in
// reach. README.md says who runs wp-cron.php instead of a visit.
define('WP_HTTP_BLOCK_EXTERNAL', true);
define('DISABLE_WP_CRON', true);

// Themes and plugins are packages, and read-only.
define('DISALLOW_FILE_MODS', true);
