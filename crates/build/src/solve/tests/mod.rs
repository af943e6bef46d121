mod cache;
mod collect;
mod fake;
mod files;
mod portable;
mod run;
