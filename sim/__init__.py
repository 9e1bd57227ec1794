"""What happens: tasks are priced and played; results, reports, studies and the command line."""
