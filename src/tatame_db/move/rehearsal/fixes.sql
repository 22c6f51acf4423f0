ALTER TABLE shops RENAME TO app_stores;
ALTER TABLE graduations RENAME "studentId" TO "userId";
