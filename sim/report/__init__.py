"""What people and programs read: terminal tables, JSON documents, traces. Each module stands by itself."""
