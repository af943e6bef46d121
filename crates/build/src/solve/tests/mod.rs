mod cache;
mod collect;
mod fake;
mod files;
mod run;
